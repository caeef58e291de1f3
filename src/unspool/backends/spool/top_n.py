"""The first of many items, found in one reading. No I/O.

A name ends in a time, and texts of ten-digit times sort as the times do. One or two comparisons of texts are enough to
discard nearly all names that are not wanted, and no object is created for them.
"""

import math
from collections.abc import Callable, Iterable
from typing import Any, Generic, Protocol, TypeVar

__all__ = ["Selection", "TopN", "sift", "time_text"]

_SIZE = len("_1700000000_000000")
_TEXT_FROM, _TEXT_TO = 1e9, 9.999e9  # times with ten digits
_BEFORE, _AFTER, _BEYOND = "_", "_:", "~"  # texts that sort before all times, directly after them, and after all names


class Named(Protocol):
    """An entry of a directory."""

    @property
    def name(self) -> str: ...


T = TypeVar("T")
Entry = TypeVar("Entry", bound=Named)


class TopN(Generic[T]):
    """The first items of those that were added.

    :param most: the number of items wanted. Up to twice as many are kept.
    :param key: returns what the items are sorted by.
    """

    def __init__(self, most: int, key: Callable[[T], Any]) -> None:
        self._most = most
        self._key = key
        self._items: list[T] = []
        self.last: T | None = None
        """The item after which all others were dropped; None if none was dropped."""
        self._end: Any = None

    def add(self, items: Iterable[T]) -> None:
        """Add items. Those after ``last`` are dropped."""
        key, end = self._key, self._end
        self._items += items if end is None else [one for one in items if key(one) < end]
        if len(self._items) > 2 * self._most:
            self._items.sort(key=key)
            del self._items[self._most :]
            self.last = self._items[-1]
            self._end = key(self.last)

    def items(self) -> list[T]:
        """Return the first items, in order."""
        return sorted(self._items, key=self._key)


class Selection:
    """The earliest names of one priority whose time has come, and the earliest whose time is in the future.

    :param latest: the latest wanted past time, the current time, and the latest wanted future time (Unix time).
    :param most: the number of names wanted of each kind.
    """

    def __init__(self, latest: tuple[float, float, float], most: int) -> None:
        self._last, self._now, last_later = map(time_text, latest)
        self._last_later = max(last_later, self._now)
        self.come: TopN[str] = TopN(most, _order)
        self.later: TopN[str] = TopN(most, _order)

    def limit(self, last: float) -> None:
        """Set the latest wanted past time (Unix time)."""
        self._last = time_text(last)

    def sift(self, entries: Iterable[Entry]) -> list[Entry]:
        """Return the entries that may be wanted, and all whose names contain no time."""
        return sift(entries, self._last, self._now, self._last_later)

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
        if self.come.last is not None:
            self._last = self.come.last[-_SIZE:]
        if self.later.last is not None:
            self._last_later = self.later.last[-_SIZE:]
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
