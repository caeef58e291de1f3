"""Times and durations in the form that users write and read."""

import time
from datetime import datetime, timedelta

import click

from ..errors import OptionRefused
from ..schedule import UNITS, duration

__all__ = ["clock", "moment", "relative", "span", "to_datetime", "to_timedelta"]


def to_timedelta(text: str) -> timedelta:
    """Return the duration in a text such as ``90s``, ``5m``, ``1h30m`` or ``1.5d``. A bare number is seconds.

    :raises click.BadParameter: if the text is not a duration.
    """
    try:
        return timedelta(seconds=duration(text))
    except OptionRefused as error:
        raise click.BadParameter(f"{error}.") from None
    except OverflowError:
        raise click.BadParameter(f"{text!r} is longer than any task can wait.") from None


def to_datetime(text: str) -> datetime:
    """Return the time in an ISO 8601 text. A time without an offset or ``Z`` is local.

    :raises click.BadParameter: if the text is not such a time.
    """
    try:
        return datetime.fromisoformat(text.strip())
    except ValueError:
        raise click.BadParameter(f"{text!r} is not an ISO 8601 time; write it like 2030-01-31T08:00.") from None


def moment(seconds: float, timespec: str = "seconds") -> str:
    """Return a Unix time as local time with its offset."""
    try:
        return datetime.fromtimestamp(seconds).astimezone().isoformat(timespec=timespec)
    except (OverflowError, ValueError, OSError):  # a file's mtime may be outside the calendar
        return f"{seconds:.0f} s since 1970"


def clock(seconds: float, now: float) -> str:
    """Return a Unix time as local time for a terminal: without the year, and on the day of ``now`` without the date."""
    try:
        then, today = datetime.fromtimestamp(seconds), datetime.fromtimestamp(now).date()
    except (OverflowError, ValueError, OSError):
        return moment(seconds)
    return f"{then:%H:%M:%S}" if then.date() == today else f"{then:%m-%d %H:%M:%S}"


def relative(seconds: float, now: float | None = None) -> str:
    """Return a Unix time relative to now: ``in 4m``, ``12s ago``, ``now``."""
    ahead = seconds - (time.time() if now is None else now)
    if abs(ahead) < 1:
        return "now"
    return f"in {_rough(ahead)}" if ahead > 0 else f"{_rough(-ahead)} ago"


def span(seconds: float) -> str:
    """Return a duration in a suitable precision: ``0.4 ms``, ``12.3 s``, ``4m10s``."""
    if seconds < 1:
        return f"{seconds * 1000:.1f} ms"
    return f"{seconds:.1f} s" if seconds < 60 else _rough(seconds)


def _rough(seconds: float) -> str:
    """Return a duration in its two largest units."""
    left = int(seconds)
    parts: list[tuple[int, str]] = []
    for unit, size in UNITS.items():
        count, left = divmod(left, int(size))
        if count or parts:
            parts.append((count, unit))
    return "".join(f"{count}{unit}" for count, unit in parts[:2] if count) or "0s"
