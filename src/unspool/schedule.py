"""Priorities, due times and durations, as callers give them."""

import re
import time
from collections.abc import Callable
from datetime import datetime, timedelta

from .errors import OptionRefused

__all__ = ["UNITS", "Postpone", "check_priority", "duration", "to_due"]

Postpone = timedelta | datetime | None

clock: Callable[[], float] = time.time
"""The clock from which delays are counted. Tests replace it to move the time."""

UNITS = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0}
"""The seconds in each unit of a duration."""

_PART = r"([0-9]+(?:\.[0-9]+)?)([dhms])"  # compiled when it is needed, like the next ones
_WHOLE = rf"(?:{_PART})+"
_BARE = r"[0-9]+(\.[0-9]+)?"
_FIRST_YEAR = 1902  # some systems cannot represent earlier times
_LATEST = 13_569_465_600.0  # the year 2400; ext4's times end in 2446


def check_priority(priority: object) -> None:
    """Check a priority.

    :raises OptionRefused: unless it is None or a whole number from 0 to 999,999,999.
    """
    if priority is None:
        return
    if isinstance(priority, bool) or not isinstance(priority, int) or not 0 <= priority < 10**9:
        raise OptionRefused(f"priority is {priority!r}; it must be a whole number from 0 to 999999999, or None")


def duration(text: str) -> float:
    """Return the seconds of a duration: ``90s``, ``5m``, ``1h30m``, ``1.5d``; a bare number is seconds.

    :raises OptionRefused: for anything else.
    """
    compact = text.strip().lower().replace(" ", "")
    if re.fullmatch(_BARE, compact, re.ASCII):
        return float(compact)
    if not re.fullmatch(_WHOLE, compact, re.ASCII):
        raise OptionRefused(f"{text!r} is not a duration; write it like 90s, 5m, 1h30m or 2d")
    return sum(float(number) * UNITS[unit] for number, unit in re.findall(_PART, compact, re.ASCII))


def to_due(postpone: object, now: float | None = None) -> float | None:
    """Return the due time (unix seconds) that ``postpone`` stands for, or None if that is not in the future.

    :param postpone: a timedelta, an aware datetime, a naive datetime (taken as local time), or None.
    :raises OptionRefused: if it is none of these, or later than the mtime of a file can be.
    """
    if postpone is None:
        return None
    now = clock() if now is None else now
    if isinstance(postpone, datetime):
        try:
            due = postpone.timestamp()
        except (OverflowError, OSError, ValueError) as error:
            if postpone.year < _FIRST_YEAR:
                return None
            raise OptionRefused(
                f"postpone is {postpone!r}, which is not a valid time on this system: {error}"
            ) from error
    elif isinstance(postpone, timedelta):
        due = now + postpone.total_seconds()
    else:
        raise OptionRefused(f"postpone is {postpone!r}; it must be a timedelta, a datetime or None")
    if due >= _LATEST:
        raise OptionRefused(f"postpone is {postpone!r}, which is later than the time of a file can be")
    return due if due > now else None
