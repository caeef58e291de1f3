"""Times and durations as people write and read them."""

import time
from datetime import datetime, timedelta

import click

from ..errors import OptionRefused
from ..schedule import UNITS, duration

__all__ = ["clock", "moment", "relative", "span", "to_datetime", "to_timedelta"]


def to_timedelta(text: str) -> timedelta:
    """Return a duration: ``90s``, ``5m``, ``1h30m``, ``1.5d``; a bare number is seconds.

    :raises click.BadParameter: for anything else.
    """
    try:
        return timedelta(seconds=duration(text))
    except OptionRefused as error:
        raise click.BadParameter(f"{error}.") from None
    except OverflowError:
        raise click.BadParameter(f"{text!r} is longer than any task can wait.") from None


def to_datetime(text: str) -> datetime:
    """Return a time in ISO 8601: with an offset or ``Z`` as it says, else local.

    :raises click.BadParameter: for anything else.
    """
    try:
        return datetime.fromisoformat(text.strip())
    except ValueError:
        raise click.BadParameter(f"{text!r} is no ISO 8601 time; write it like 2030-01-31T08:00.") from None


def moment(seconds: float, timespec: str = "seconds") -> str:
    """Unix seconds as local time with its offset."""
    try:
        return datetime.fromtimestamp(seconds).astimezone().isoformat(timespec=timespec)
    except (OverflowError, ValueError, OSError):  # a file can carry a time that no calendar has
        return f"{seconds:.0f} s since 1970"


def clock(seconds: float, now: float) -> str:
    """Return unix seconds as local time for a terminal: without the year, and on the day of ``now`` without the
    date."""
    try:
        then, today = datetime.fromtimestamp(seconds), datetime.fromtimestamp(now).date()
    except (OverflowError, ValueError, OSError):
        return moment(seconds)
    return f"{then:%H:%M:%S}" if then.date() == today else f"{then:%m-%d %H:%M:%S}"


def relative(seconds: float, now: float | None = None) -> str:
    """Unix seconds as seen from now: ``in 4m``, ``12s ago``, ``now``."""
    ahead = seconds - (time.time() if now is None else now)
    if abs(ahead) < 1:
        return "now"
    return f"in {_rough(ahead)}" if ahead > 0 else f"{_rough(-ahead)} ago"


def span(seconds: float) -> str:
    """Return a duration, as exact as is of use: ``0.4 ms``, ``12.3 s``, ``4m10s``."""
    if seconds < 1:
        return f"{seconds * 1000:.1f} ms"
    return f"{seconds:.1f} s" if seconds < 60 else _rough(seconds)


def _rough(seconds: float) -> str:
    """Return the two largest units."""
    left = int(seconds)
    parts: list[tuple[int, str]] = []
    for unit, size in UNITS.items():
        count, left = divmod(left, int(size))
        if count or parts:
            parts.append((count, unit))
    return "".join(f"{count}{unit}" for count, unit in parts[:2] if count) or "0s"
