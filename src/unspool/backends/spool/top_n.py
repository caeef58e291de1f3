"""The earliest of a million names, found in one reading. No I/O.

A name ends in a time, and of times of ten digits the texts sort as the times do. So nearly all names are told by one or
two comparisons of texts to be beyond what is wanted, and no object is made for them.
"""

import math
from collections.abc import Iterable
from typing import Protocol, TypeVar

__all__ = ["Earliest", "Selection", "sift", "time_text"]

_SIZE = len("_1700000000_000000")
_TEXT_FROM, _TEXT_TO = 1e9, 9.999e9  # seconds that have ten digits
_BEFORE, _AFTER, _BEYOND = "_", "_:", "~"  # texts that sort before all times, right after them, and after all names


class Named(Protocol):
    """What a reading of a directory gives."""

    @property
    def name(self) -> str: ...


Entry = TypeVar("Entry", bound=Named)


class Earliest:
    """Of names that are timed, the earliest so many.

    :param most: how many are wanted; up to twice as many are kept.
    :param last: the text of the latest time that is wanted.
    """

    def __init__(self, most: int, last: str) -> None:
        self._most = most
        self._names: list[str] = []
        self._end = _BEYOND
        self.last = last

    @property
    def cut(self) -> bool:
        """Whether names were dropped, all of them after the last of ``names``."""
        return self._end != _BEYOND

    def add(self, names: Iterable[str]) -> None:
        """Take in names that are not later than ``last``."""
        self._names += names
        if len(self._names) > 2 * self._most:
            self._names.sort(key=_order)
            del self._names[self._most :]
            self._end = _order(self._names[-1])
            self.last = self._end[:_SIZE]

    def names(self) -> list[str]:
        """Return the earliest, in order."""
        return sorted((name for name in self._names if _order(name) <= self._end), key=_order)


class Selection:
    """Of the names of one priority, the earliest of those whose time has come, and of those whose time is to come.

    :param latest: the latest time of the former, the time it is now, and the latest time of the latter (unix seconds).
    :param most: how many of each are wanted.
    """

    def __init__(self, latest: tuple[float, float, float], most: int) -> None:
        last, self._now, last_later = map(time_text, latest)
        self.come = Earliest(most, last)
        self.later = Earliest(most, max(last_later, self._now))

    def limit(self, last: float) -> None:
        """Names whose time has come are wanted up to this time (unix seconds)."""
        self.come.last = time_text(last)

    def sift(self, entries: Iterable[Entry]) -> list[Entry]:
        """Return the entries that may be wanted, and all whose names contain no time."""
        return sift(entries, self.come.last, self._now, self.later.last)

    def add(self, names: Iterable[str], exact: bool) -> list[str]:
        """Take in names that ``sift`` has let through; those that it does not take, for they are not timed.

        :param exact: whether not to take those either whose time has come.
        """
        come: list[str] = []
        later: list[str] = []
        others: list[str] = []
        for name in names:
            time = name[-_SIZE:]
            if time[0] != "_" or time[11:12] != "_":
                others.append(name)
            elif time > self._now:
                later.append(name)
            else:
                (others if exact else come).append(name)
        self.come.add(come)
        self.later.add(later)
        return others


def sift(entries: Iterable[Entry], last: str, now: str, last_later: str) -> list[Entry]:
    """All but those with a time after ``last`` that has come, or after ``last_later`` that is to come.

    :param last, now, last_later: texts of times.
    """
    return [
        entry
        for entry in entries
        if (not last < (time := entry.name[-_SIZE:]) <= now or time[11:12] != "_")
        and (time <= last_later or time >= _AFTER or time[11:12] != "_")
    ]


def time_text(time: float) -> str:
    """Return a time (unix seconds) as names have it at their ends, to compare with those texts; never an earlier
    one."""
    if time == -math.inf:
        return _BEFORE
    if not _TEXT_FROM <= time < _TEXT_TO:
        return _BEYOND
    seconds, rest = divmod(math.ceil(time * 1_000_000) + 1, 1_000_000)
    return f"_{seconds}_{rest:06d}"


def _order(name: str) -> str:
    """By time, and where that is the same, by name."""
    return name[-_SIZE:] + name
