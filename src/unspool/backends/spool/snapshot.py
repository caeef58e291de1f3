"""All tasks of a directory at one moment: counted, or by state and in order, holding only part of a million in memory.

Nothing is locked. Whether a task is running is read from the kernel's table of locks, so that a million files need not
be opened. A file is checked itself only if that table contains its inode. If the table is long, the kernel may have
returned it with gaps. Some files are then checked in any case, so that the result is exact for small numbers.
"""

import contextlib
import heapq
import math
import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple, TypeVar

from ...message import State
from ..page import Counts, TaskPosition
from . import lock
from .dead_letters import REASON_SUFFIX
from .directory import Directory
from .layout import ASIDE, rank_of
from .names import hint
from .scan import Entry, read_all, tasks
from .top_n import TopN, sift, time_text
from .trust import is_unfinished

__all__ = ["Snapshot"]

# Names held: a minimum that costs little, and a maximum that avoids reading everything again too often.
_FEW, _MOST = 5_000, 100_000
_ASKED = 1_000  # maximum number of checks for locks that the table does not contain

_BEYOND = 1 << 64  # above all inodes

T = TypeVar("T", bound=tuple[Any, ...])


class _Name(NamedTuple):
    """A name. Names sort in the order of execution, as far as it is known.

    :param due: a lower bound of the due time.
    :param hint: the time in the name.
    """

    rank: int
    due: float
    hint: float
    ref: str
    inode: int = 0

    @property
    def key(self) -> tuple[int, float, float, str]:
        """Return what ready tasks sort by."""
        return self[:4]


class _Some(NamedTuple):
    """A batch of files with tasks' names, all of one priority or without one.

    :param lead: the part of a ref before the name.
    :param refused: whether nothing in this directory may be run.
    """

    rank: int
    lead: str
    refused: bool
    files: list[Entry]

    def named(self) -> list[_Name]:
        rank, lead = self.rank, self.lead
        dated = ((hint(one.name), one) for one in self.files)
        return [_Name(rank, due, due, lead + one.name, one.inode()) for due, one in dated]

    def until(self, end: _Name | None, now: float) -> "_Some":
        """Return the tasks that, by their names, may be due now and are not after ``end``."""
        last = now
        if end is not None and self.rank >= end.rank:
            last = min(end.due, now) if self.rank == end.rank else -math.inf
        return self._replace(files=sift(self.files, time_text(last), time_text(now), time_text(now)))


class Snapshot:
    """The contents of a directory. Waiting tasks are returned as refs, dead letters as refs within their directory.

    :param now: Unix time.
    """

    def __init__(self, directory: Directory, now: float) -> None:
        self._directory = directory
        self._now = now
        self._locked = lock.held_inodes()
        self._asks = 0 if self._locked is None or self._locked.whole else _ASKED

    def counts(self) -> Counts:
        """Return the number of tasks in each state, and the earliest due time of the ready ones."""
        counts, oldest = dict[str, int](dict.fromkeys(State, 0)), math.inf
        for some in self._all():
            for one in some.files:
                state = self._state(some, one)
                if state is not None:
                    counts[state] += 1
                if state is State.READY and (due := one.stat(follow_symlinks=False).st_mtime) < oldest:
                    oldest = min(oldest, max(due, hint(one.name)))
        for place, part in ASIDE.items():
            counts[State(place)] += sum(len(some.files) for some in self._all(part))
        return Counts(counts, None if oldest == math.inf else oldest)

    def running(self, after: TaskPosition | None = None) -> list[str]:
        """Return the locked tasks, in order."""
        found: list[_Name] = []
        for some in self._all():
            maybe = [one for one in some.files if self._may_run(one.inode())]
            found += [
                name for name in some._replace(files=maybe).named() if lock.is_locked(self._directory.path(name.ref))
            ]
        return [name.ref for name in sorted(found) if after is None or name.key > _by_name(after)]

    def ready(self, limit: int | None, after: TaskPosition | None = None) -> Iterator[str]:
        """Yield ready tasks in the order of execution.

        A name's time is never later than its file's. Therefore no more files are read than requested, and with a
        position those whose names come before it.
        """
        later: list[tuple[int, float, float, str]] = []
        start = None if after is None else (after.rank, after.due, hint(after.id), after.id)
        for name in _in_order(lambda first: self._begun(first, start), limit):
            while later and later[0][:2] <= (name.rank, name.due):
                yield heapq.heappop(later)[-1]
            with contextlib.suppress(OSError):
                due = max(os.stat(self._directory.path(name.ref), follow_symlinks=False).st_mtime, name.hint)
                if due <= self._now and not self._runs(name.ref, name.inode):
                    heapq.heappush(later, (name.rank, due, name.hint, name.ref))
        while later:
            yield heapq.heappop(later)[-1]

    def deferred(self, limit: int | None, after: TaskPosition | None = None) -> Iterator[str]:
        """Return the deferred tasks by due time."""
        start = None if after is None else (after.due, after.rank, after.id)
        return (ref for _, _, ref in _in_order(self._deferred, limit, start))

    def refused(self, limit: int | None, after: TaskPosition | None = None) -> Iterator[str]:
        """Return the files among the waiting tasks that are never run."""
        return (name.ref for name in _in_order(self._refused, limit, _last_of(after)))

    def aside(self, place: str, limit: int | None, after: TaskPosition | None = None) -> Iterator[str]:
        """Return the dead letters of state ``dead`` or ``corrupt``."""
        found = _in_order(lambda _: (some.named() for some in self._all(ASIDE[place])), limit, _last_of(after))
        return (name.ref for name in found)

    def named(self, is_wanted: Callable[[str], bool]) -> Iterator[tuple[str, str]]:
        """Yield the state (empty for waiting tasks) and the ref of each file whose name is wanted.

        No file is read.
        """
        for place, lead in {"": "", **ASIDE}.items():
            for some in self._all(lead):
                yield from ((place, some.lead + one.name) for one in some.files if is_wanted(one.name))

    def _begun(self, first: TopN[_Name], start: tuple[int, float, float, str] | None) -> Iterator[list[_Name]]:
        """Yield the tasks that are ready by their names and come after a position."""
        for some in self._all():
            names = [name for name in some.until(first.last, self._now).named() if name.due <= self._now]
            yield names if start is None else list(self._after(names, start))

    def _after(self, names: list[_Name], start: tuple[int, float, float, str]) -> Iterator[_Name]:
        """Yield the names after a position. A name before it may belong to a task that is due later than its name
        says, so its file is checked."""
        for name in names:
            if name.key > start:
                yield name
            elif name.rank == start[0]:
                with contextlib.suppress(OSError):
                    due = os.stat(self._directory.path(name.ref), follow_symlinks=False).st_mtime
                    if (found := name._replace(due=max(due, name.due))).key > start:
                        yield found

    def _deferred(self, _: object) -> Iterator[list[tuple[float, int, str]]]:
        """Yield the deferred tasks. A file is checked only if its name does not already say that it is deferred."""
        for some in self._all():
            found = []
            for one in some.files:
                with contextlib.suppress(OSError):
                    due = hint(one.name)
                    due = due if due > self._now else one.stat(follow_symlinks=False).st_mtime
                    if due > self._now and not self._runs(some.lead + one.name, one.inode()):
                        found.append((due, some.rank, some.lead + one.name))
            yield found

    def _refused(self, _: object) -> Iterator[list[_Name]]:
        for some in self._all():
            yield some._replace(files=[one for one in some.files if self._state(some, one) is State.CORRUPT]).named()

    def _state(self, some: _Some, one: Entry) -> State | None:
        """Return the state of a waiting task. Return None if it no longer exists or is not written yet."""
        try:
            found = one.stat(follow_symlinks=False)
        except OSError:
            return None
        if is_unfinished(found):
            return None
        if some.refused or self._directory.objection(found):
            return State.CORRUPT
        if self._runs(some.lead + one.name, one.inode()):
            return State.RUNNING
        # A copy that lost its mtime is not due before the time in its name.
        return State.DEFERRED if max(found.st_mtime, hint(one.name)) > self._now else State.READY

    def _runs(self, ref: str, inode: int) -> bool:
        return self._may_run(inode) and lock.is_locked(self._directory.path(ref))

    def _may_run(self, inode: int) -> bool:
        if self._locked is None or inode in self._locked.inodes:
            return True
        self._asks -= 1
        return self._asks >= 0

    def _all(self, lead: str = "") -> Iterator[_Some]:
        """Yield the files with a task's name that wait, or that are in a part of the directory."""
        for part, entries in read_all(self._directory, lead):
            rank, before = rank_of(int(part) if part else None), f"{part}/" if part else ""
            files = tasks(entries)
            if lead:
                yield _Some(rank, before, False, [one for one in files if not one.name.endswith(REASON_SUFFIX)])
            else:
                yield _Some(rank, before, self._is_refused(before), files)

    def _is_refused(self, part: str) -> bool:
        try:
            return self._directory.part_objection(part) is not None
        except OSError:
            return True


def _by_name(position: TaskPosition) -> tuple[int, float, float, str]:
    return position.rank, (due := hint(position.id)), due, position.id


def _last_of(position: TaskPosition | None) -> _Name | None:
    """Return a name that sorts after the one at a position and before the next one."""
    return None if position is None else _Name(*_by_name(position), _BEYOND)


def _in_order(read: Callable[[TopN[T]], Iterable[list[T]]], limit: int | None, after: T | None = None) -> Iterator[T]:
    """Yield all items after a given one, sorted. Only the first ones are held in memory; the next ones are read again.

    :param read: gets the held items, because it need not return items after their ``last``.
    :param limit: how many items are wanted, if that is known.
    """
    most, last = _MOST if limit is None else min(max(limit, _FEW), _MOST), after
    while True:
        first: TopN[T] = TopN(most, lambda one: one)
        for some in read(first):
            first.add(some if last is None else [one for one in some if one > last])
        yield from first.items()
        if first.last is None:
            return
        most, last = _MOST, first.last
