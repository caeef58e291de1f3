"""Listings of a spool directory, which take no lock and decode nothing.

A page costs a scan of the names, of which only the first ones after the page's position are held.
"""

import itertools
import os
import stat
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Literal

from ... import wire
from ...codec import task_label
from ...errors import Damaged
from ...message import Entry, Envelope, State
from ..base import Clock
from ..depot import MOVING
from ..page import FEW, Continuation, Counts, Page, TaskPosition, TaskQuery, page_of_task
from . import lock
from .attempts import Attempts, read_count
from .dead_letters import read_note
from .directory import Directory
from .file import read_whole
from .ids import inside, places
from .layout import priority_of, rank_of
from .leaving import Leaving, under_way
from .names import hint
from .pieces import is_piece
from .snapshot import Snapshot
from .trust import is_unfinished

__all__ = ["Listing"]

_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC

_Found = Iterator[tuple[str, Entry | None]]
"""Refs with their entries, or None for a task that has left its state since the scan."""


class Listing:
    """The tasks of a directory as entries."""

    def __init__(self, directory: Directory, attempts: Callable[[], Attempts], max_size: int, clock: Clock) -> None:
        self._directory = directory
        self._attempts = attempts
        self._max_size = max_size
        self._clock = clock
        self._continuation = Continuation()

    # --- listings

    def page(self, query: TaskQuery, after: str, limit: int) -> Page:
        """Return tasks, as ``base.Backend.page``."""
        start = TaskPosition.load(after)
        if query.id:
            return page_of_task(query, self._read(query.id, body=query.body))
        if query.piece:
            return Page(tuple(filter(query.wants, self._matching(query.piece))))
        return self._continuation.page(query, after, limit, lambda: self._tasks(query.states, start, limit))

    def counts(self, by: Literal["state", "label"]) -> Counts:
        """Return the number of tasks in each state or of each label."""
        if by == "label":
            return Counts(dict(Counter(entry.task for entry, _ in self._tasks(frozenset(State), None, None))))
        now = self._clock()
        counts = Snapshot(self._directory, now).counts()
        for moved in filter(None, (self._moved(one, now) for one in under_way(self._directory))):
            counts.tasks[moved.state] += 1
        return counts

    def _tasks(
        self, states: frozenset[State], start: TaskPosition | None, limit: int | None
    ) -> Iterator[tuple[Entry, TaskPosition]]:
        """Yield the tasks after a position in order: running, ready, deferred, dead letters, and those that are being
        moved.

        :param limit: how many tasks are wanted, if that is known.
        """
        now = start.now if start else self._clock()
        snapshot = Snapshot(self._directory, now)

        def waiting(state: State, refs: Iterable[str]) -> _Found:
            return ((ref, self._entry(ref, state, now)) for ref in refs)

        def aside(state: State, at: TaskPosition | None) -> _Found:
            return ((ref, self._aside(state, ref)) for ref in snapshot.aside(state, limit, at))

        parts: list[tuple[State | None, Callable[[TaskPosition | None], _Found]]] = [
            (State.RUNNING, lambda at: waiting(State.RUNNING, snapshot.running(at))),
            (State.READY, lambda at: waiting(State.READY, snapshot.ready(limit, at))),
            (State.DEFERRED, lambda at: waiting(State.DEFERRED, snapshot.deferred(limit, at))),
            (State.CORRUPT, lambda at: waiting(State.CORRUPT, snapshot.refused(limit, at))),
            (State.DEAD, lambda at: aside(State.DEAD, at)),
            (State.CORRUPT, lambda at: aside(State.CORRUPT, at)),
            (None, lambda at: self._all_moved(at, now)),
        ]
        first = start.section if start else 0
        for section, (state, found) in enumerate(parts):
            if section < first or (state is not None and state not in states):
                continue
            for ref, entry in found(start if section == first else None):
                if entry is not None and entry.state is (state or entry.state) and entry.state in states:
                    yield entry, TaskPosition(now, section, rank_of(entry.priority), entry.due, ref)

    def _all_moved(self, after: TaskPosition | None, now: float) -> _Found:
        moving = sorted((one.inside, one) for one in under_way(self._directory))
        return ((path, self._moved(one, now)) for path, one in moving if after is None or path > after.id)

    # --- single tasks

    def _read(self, id: str, *, body: bool) -> tuple[Entry, Envelope | None] | None:
        """Return the task of an id, and with ``body`` its envelope."""
        now, known = self._clock(), list(places(self._directory.root, id))
        for place, ref in known:
            entry = self._aside(place, ref) if place else self._entry(ref, None, now)
            if entry is not None:
                return entry, self._envelope(inside(place, ref), entry) if body else None
        leaving = (one for one in under_way(self._directory) if (one.place, one.ref) in known) if known else iter(())
        for one in leaving:
            if (moved := self._moved(one, now)) is not None:
                return moved, self._envelope(one.inside, moved) if body else None
        return None

    def _matching(self, piece: str) -> list[Entry]:
        """Return a few tasks whose names contain this piece. Each name is read once."""
        snapshot = Snapshot(self._directory, self._clock())
        found = snapshot.named(lambda name: piece in name and is_piece(piece, name))
        moved = (
            (one.place, one.ref) for one in under_way(self._directory) if is_piece(piece, os.path.basename(one.ref))
        )
        ids = (self._directory.path(inside(place, ref)) for place, ref in itertools.chain(found, moved))
        read = (self._read(id, body=False) for id in itertools.islice(ids, FEW))
        return [one[0] for one in read if one is not None]

    def _entry(self, ref: str, state: State | None, now: float) -> Entry | None:
        """Return the entry of a waiting task. If ``state`` is given, its lock is not checked again."""
        path = self._directory.path(ref)
        try:
            found = os.stat(path, follow_symlinks=False)
        except OSError:
            return None
        if is_unfinished(found):
            return None
        reason = self._directory.objection(found) or self._part_objection(ref)
        count, due = read_count(self._directory, ref), max(found.st_mtime, hint(ref))
        if reason:
            state = State.CORRUPT
        elif state is None:
            waits = State.READY if due <= now else State.DEFERRED
            state = State.RUNNING if lock.is_locked(path) else waits
        label, problem = ("?", reason) if reason else self._label(ref)
        return Entry(
            path,
            state,
            self._directory.root,
            label,
            priority_of(ref),
            due,
            count.attempts,
            found.st_size,
            problem,
        )

    def _part_objection(self, ref: str) -> str:
        try:
            return self._directory.part_objection(ref) or ""
        except OSError as error:
            return error.strerror or str(error)

    def _aside(self, place: str, ref: str) -> Entry | None:
        path = self._directory.path(inside(place, ref))
        try:
            found = os.stat(path, follow_symlinks=False)
        except OSError:
            return None
        note = read_note(self._directory, place, ref)
        label, problem = self._label(inside(place, ref))
        if not stat.S_ISREG(found.st_mode):
            problem = self._directory.objection(found) or problem
        return Entry(
            path,
            State(place),
            self._directory.root,
            label,
            priority_of(ref),
            found.st_mtime,
            note.attempts if note else 0,
            found.st_size,
            (note.reason if note else "") or problem,
        )

    def _moved(self, leaving: Leaving, now: float) -> Entry | None:
        """Return the entry of a leaving task, under its former id and state."""
        try:
            found = os.stat(self._directory.path(leaving.inside), follow_symlinks=False)
        except OSError:
            return None
        label, _ = self._label(leaving.inside)
        waits = State.READY if found.st_mtime <= now else State.DEFERRED
        note = read_note(self._directory, leaving.place, leaving.ref) if leaving.place else None
        count = self._attempts().read(leaving.ref if self._attempts().outlive else leaving.inside)
        return Entry(
            self._directory.path(inside(leaving.place, leaving.ref)),
            State(leaving.place) if leaving.place else waits,
            self._directory.root,
            label,
            priority_of(leaving.ref),
            found.st_mtime,
            note.attempts if note else count.attempts,
            found.st_size,
            note.reason if note else MOVING,
        )

    def _label(self, path: str) -> tuple[str, str]:
        try:
            head = self._read_file(path, whole=False)
            return (task_label(wire.load_vars(head).vars), "") if head is not None else ("?", "")
        except Damaged as error:
            return "?", str(error)

    def _envelope(self, path: str, entry: Entry) -> Envelope | None:
        try:
            data = self._read_file(path, whole=True)
        except Damaged:
            return None
        return None if data is None else Envelope(data, entry.priority, entry.due, entry.task)

    def _read_file(self, path: str, *, whole: bool) -> bytes | None:
        """Return the bytes of a file, or without ``whole`` only those of its variables. Return None if it cannot be
        read. Closing it drops no lock of this process.

        :raises Damaged: if it is too large, or cannot be a task.
        """
        try:
            fd = os.open(self._directory.path(path), _READ)
        except OSError:
            return None
        try:
            found = os.fstat(fd)
            if not stat.S_ISREG(found.st_mode):
                return None
            if whole:
                return read_whole(fd, found.st_size, self._max_size)
            return os.read(fd, wire.HEADER_SIZE + wire.MAX_VARS)
        except OSError:
            return None
        finally:
            os.close(fd)
