"""The earliest names of a directory, found in one reading. No I/O.

A name ends in a time, and texts of ten-digit times sort as the times do. One or two comparisons of texts are enough to
discard nearly all names that are not wanted, and no object is created for them.
"""

import math
from collections.abc import Iterable
from typing import Protocol, TypeVar

__all__ = ["Earliest", "Selection", "sift", "time_text"]

_SIZE = len("_1700000000_000000")
_TEXT_FROM, _TEXT_TO = 1e9, 9.999e9  # times with ten digits
_BEFORE, _AFTER, _BEYOND = "_", "_:", "~"  # texts that sort before all times, directly after them, and after all names


class Named(Protocol):
    """An entry of a directory."""

    @property
    def name(self) -> str: ...


Entry = TypeVar("Entry", bound=Named)


class Earliest:
    """The earliest of the names that contain a time.

    :param most: the number of names wanted. Up to twice as many are kept.
    :param last: the text of the latest wanted time.
    """

    def __init__(self, most: int, last: str) -> None:
        self._most = most
        self._names: list[str] = []
        self._end = _BEYOND
        self.last = last

    @property
    def cut(self) -> bool:
        """Return whether names were dropped. All of them come after the last of ``names``."""
        return self._end != _BEYOND

    def add(self, names: Iterable[str]) -> None:
        """Add names that are not later than ``last``."""
        self._names += names
        if len(self._names) > 2 * self._most:
            self._names.sort(key=_order)
            del self._names[self._most :]
            self._end = _order(self._names[-1])
            self.last = self._end[:_SIZE]

    def names(self) -> list[str]:
        """Return the earliest names, in order."""
        return sorted((name for name in self._names if _order(name) <= self._end), key=_order)


class Selection:
    """The earliest names of one priority whose time has come, and the earliest whose time is in the future.

    :param latest: the latest wanted past time, the current time, and the latest wanted future time (Unix time).
    :param most: the number of names wanted of each kind.
    """

    def __init__(self, latest: tuple[float, float, float], most: int) -> None:
        last, self._now, last_later = map(time_text, latest)
        self.come = Earliest(most, last)
        self.later = Earliest(most, max(last_later, self._now))

    def limit(self, last: float) -> None:
        """Set the latest wanted past time (Unix time)."""
        self.come.last = time_text(last)

    def sift(self, entries: Iterable[Entry]) -> list[Entry]:
        """Return the entries that may be wanted, and all whose names contain no time."""
        return sift(entries, self.come.last, self._now, self.later.last)

    def add(self, names: Iterable[str], exact: bool) -> list[str]:
        """Add names that ``sift`` has returned. Return the names that were not added.

        :param exact: whether to return the names whose time has come instead of adding them.
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
    """Return the entries whose past time is not after ``last`` or whose future time is not after ``last_later``.

    Entries without a time in their name are returned too.

    :param last, now, last_later: texts of times.
    """
    return [
        entry
        for entry in entries
        if (not last < (time := entry.name[-_SIZE:]) <= now or time[11:12] != "_")
        and (time <= last_later or time >= _AFTER or time[11:12] != "_")
    ]


def time_text(time: float) -> str:
    """Return a time (Unix time) in the form of names' ends, for comparison. It is never earlier than the time."""
    if time == -math.inf:
        return _BEFORE
    if not _TEXT_FROM <= time < _TEXT_TO:
        return _BEYOND
    seconds, rest = divmod(math.ceil(time * 1_000_000) + 1, 1_000_000)
    return f"_{seconds}_{rest:06d}"


def _order(name: str) -> str:
    """Return a sort key: the time, then the name."""
    return name[-_SIZE:] + name
