"""Listings of a spool directory, and changes of single tasks: the basis of ``ls``, ``show``, ``retry`` and ``rm``.

Listing takes no lock and decodes nothing. A change takes the task's lock, as a worker does.
"""

import contextlib
import itertools
import os
import stat
from collections.abc import Callable, Iterable, Iterator

from ... import wire
from ...codec import task_label
from ...errors import Damaged, TaskBusy
from ...message import Entry, Envelope, State
from ..base import Clock, Summary
from ..depot import MOVING
from . import lock
from .attempts import Attempts, read_count
from .dead_letters import REASON_SUFFIX, bring_back, discard, read_note
from .directory import Directory
from .file import read_whole
from .layout import ASIDE, is_priority, priority_of
from .leaving import Leaving, under_way
from .names import hint, is_task, renamed
from .pieces import is_piece
from .snapshot import Snapshot
from .trust import is_unfinished

__all__ = ["Listing"]

_MATCHES = 10
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class Listing:
    """The tasks of a directory as entries."""

    def __init__(self, directory: Directory, attempts: Callable[[], Attempts], max_size: int, clock: Clock) -> None:
        self._directory = directory
        self._attempts = attempts
        self._max_size = max_size
        self._clock = clock

    # --- listings

    def entries(self, states: frozenset[State], limit: int | None) -> Iterator[Entry]:
        """Return running tasks, then ready ones in order of execution, then deferred ones by due time, then dead
        letters."""
        return itertools.islice(self._entries(states, limit), limit)

    def summary(self) -> Summary:
        """Return the number of tasks in each state, and the earliest due time of the ready ones."""
        summary = Snapshot(self._directory, self._clock()).summary()
        for moved in filter(None, map(self._moved, under_way(self._directory))):
            summary.counts[moved.state] += 1
        return summary

    def _entries(self, states: frozenset[State], limit: int | None) -> Iterator[Entry]:
        snapshot = Snapshot(self._directory, self._clock())
        waiting: dict[State, Callable[[], Iterable[str]]] = {
            State.RUNNING: snapshot.running,
            State.READY: lambda: snapshot.ready(limit),
            State.DEFERRED: lambda: snapshot.deferred(limit),
            State.CORRUPT: lambda: snapshot.refused(limit),
        }
        for state, refs in waiting.items():
            if state in states:
                for ref in refs():
                    entry = self._entry(ref, state)
                    if entry is not None and entry.state is state:  # its state may have changed since the scan
                        yield entry
        for place in ASIDE:
            if State(place) in states:
                yield from filter(None, (self._aside(place, ref) for ref in snapshot.aside(place, limit)))
        yield from (
            moved for moved in filter(None, map(self._moved, under_way(self._directory))) if moved.state in states
        )

    # --- single tasks

    def find(self, id: str) -> Entry | None:
        """Return the task of an id: a path, absolute or relative to the working or the spool directory."""
        found = self.read(id, body=False)
        return found[0] if found else None

    def read(self, id: str, *, body: bool = True) -> tuple[Entry, Envelope | None] | None:
        """Return the task of an id with its envelope."""
        for place, ref in self._places(id):
            entry = self._aside(place, ref) if place else self._entry(ref, None)
            if entry is not None:
                return entry, self._envelope(_inside(place, ref), whole=True) if body else None
        leaving = self._leaving(id)
        moved = self._moved(leaving) if leaving else None
        if leaving is None or moved is None:
            return None
        return moved, self._envelope(leaving.inside, whole=True) if body else None

    def matching(self, piece: str) -> list[str]:
        """Return the ids of a few tasks whose names contain this piece. Each name is read once."""
        snapshot = Snapshot(self._directory, self._clock())
        found = snapshot.named(lambda name: piece in name and is_piece(piece, name))
        moved = (
            (one.place, one.ref) for one in under_way(self._directory) if is_piece(piece, os.path.basename(one.ref))
        )
        ids = (self._directory.path(_inside(place, ref)) for place, ref in itertools.chain(found, moved))
        return list(itertools.islice(ids, _MATCHES))

    def origin(self, id: str) -> str:
        """Return the id that a task has, or had, as a waiting task."""
        try:
            _, ref = self.locate(id)
        except LookupError:
            _, ref = next(self._places(id), ("", ""))
        return self._directory.path(ref) if ref else id

    def retry(self, id: str) -> str:
        """Make a task ready now and reset its attempts. It is renamed if its name contains a later time.

        :raises LookupError, TaskBusy: as ``base.Backend.retry``.
        """
        place, ref = self.locate(id)
        self._require_file(place, ref, regular=True)
        now = self._clock()
        # Scans rely on a name's time never being later than its task's, and no waiting task may be replaced.
        taken = place and os.path.lexists(self._directory.path(ref))
        target = self._free(ref, now) if taken or hint(ref) > now else ref
        if place:
            self._attempts().clear(_inside(place, ref))
            if not taken:  # otherwise the count is that of the other task
                self._attempts().clear(ref)
            with self._present(ref):
                bring_back(self._directory, place, ref, target, now)
        else:
            with self._held(ref):
                self._attempts().clear(ref)
                os.utime(self._directory.path(ref), (now, now), follow_symlinks=False)
                if target != ref:
                    os.rename(self._directory.path(ref), self._directory.path(target))
        return self._directory.path(target)

    def _free(self, ref: str, now: float) -> str:
        """Return the ref with a time at its end that is not after now, under which no other file exists."""
        while os.path.lexists(self._directory.path(target := renamed(ref, now))):
            now -= 1e-6
        return target

    def remove(self, id: str) -> None:
        """Delete the task.

        :raises LookupError, TaskBusy: as ``base.Backend.remove``.
        """
        place, ref = self.locate(id)
        self._require_file(place, ref, regular=False)
        if place:
            with self._present(ref):
                discard(self._directory, place, ref)
        else:
            with self._held(ref):
                os.unlink(self._directory.path(ref))
        if self._attempts().outlive:
            self._attempts().clear(ref)

    def locate(self, id: str) -> tuple[str, str]:
        """Return the state of a dead letter, or an empty string for a waiting task, and the task's ref.

        :raises LookupError: if it does not exist.
        :raises TaskBusy: if it is being moved to another spooler.
        """
        for place, ref in self._places(id):
            if os.path.lexists(self._directory.path(_inside(place, ref))):
                return place, ref
        if self._leaving(id) is not None:
            raise TaskBusy(f"task {id} {MOVING}")
        raise LookupError(f"no task {id} in spooler {self._directory.root}")

    def _require_file(self, place: str, ref: str, *, regular: bool) -> None:
        """Check that a task's name belongs to a file.

        :param regular: whether to refuse links and FIFOs as well as directories.
        :raises LookupError: if it is refused.
        """
        path = self._directory.path(_inside(place, ref))
        with self._present(ref):
            mode = os.stat(path, follow_symlinks=False).st_mode
        if stat.S_ISDIR(mode):
            raise LookupError(f"{path} is a directory, not a task")
        if regular and not stat.S_ISREG(mode):
            raise LookupError(f"{path} is not a regular file, so it is never run; 'unspool rm' removes it")

    @contextlib.contextmanager
    def _present(self, ref: str) -> Iterator[None]:
        """Raise ``LookupError`` for a file that does not exist."""
        try:
            yield
        except FileNotFoundError:
            raise LookupError(f"task {self._directory.path(ref)} has just ended") from None

    @contextlib.contextmanager
    def _held(self, ref: str) -> Iterator[None]:
        """Hold the task's lock if its file can be locked. Links and FIFOs are never run and have no lock."""
        path = self._directory.path(ref)
        with self._present(ref):
            found = os.stat(path, follow_symlinks=False)
            if not stat.S_ISREG(found.st_mode) or not os.access(path, os.R_OK | os.W_OK):
                yield
                return
            fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                if not lock.acquire(fd):
                    raise TaskBusy(f"task {path} is running; ask again when it has ended")
                os.stat(path, follow_symlinks=False)  # the previous holder of the lock may have removed it
                yield
            finally:
                os.close(fd)

    def _places(self, id: str) -> Iterator[tuple[str, str]]:
        """Yield the possible locations of a task with this id: as a waiting task, then as a dead letter."""
        ref = self._ref(id)
        if ref is None:
            return
        aside = {} if ref.endswith(REASON_SUFFIX) else ASIDE  # a dead letter's note has this name
        for place, prefix in ASIDE.items():
            if ref.startswith(f"{prefix}/"):
                within = ref[len(prefix) + 1 :]
                if place in aside and _is_ref(within):
                    yield place, within
                return
        if not _is_ref(ref):
            return
        yield "", ref
        for place in aside:
            yield place, ref

    def _ref(self, id: str) -> str | None:
        """Return the path of an id within the directory. Return None if it leads elsewhere or cannot be a path."""
        if not _is_path(id):
            return None
        root = self._directory.root
        candidates = [id] if os.path.isabs(id) else [os.path.abspath(id), os.path.normpath(f"{root}/{id}")]
        for candidate in map(os.path.normpath, candidates):
            for base in {root, os.path.realpath(root)}:
                if candidate.startswith(f"{base}/"):
                    return candidate[len(base) + 1 :]
        return None

    def _entry(self, ref: str, state: State | None) -> Entry | None:
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
            waits = State.READY if due <= self._clock() else State.DEFERRED
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
        inside = _inside(place, ref)
        path = self._directory.path(inside)
        try:
            found = os.stat(path, follow_symlinks=False)
        except OSError:
            return None
        note = read_note(self._directory, place, ref)
        label, problem = self._label(inside)
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

    def _leaving(self, id: str) -> Leaving | None:
        wanted = set(self._places(id))
        if not wanted:
            return None
        return next((one for one in under_way(self._directory) if (one.place, one.ref) in wanted), None)

    def _moved(self, leaving: Leaving) -> Entry | None:
        """Return the entry of a leaving task, under its former id and state."""
        try:
            found = os.stat(self._directory.path(leaving.inside), follow_symlinks=False)
        except OSError:
            return None
        label, _ = self._label(leaving.inside)
        waits = State.READY if found.st_mtime <= self._clock() else State.DEFERRED
        note = read_note(self._directory, leaving.place, leaving.ref) if leaving.place else None
        count = self._attempts().read(leaving.ref if self._attempts().outlive else leaving.inside)
        return Entry(
            self._directory.path(_inside(leaving.place, leaving.ref)),
            State(leaving.place) if leaving.place else waits,
            self._directory.root,
            label,
            priority_of(leaving.ref),
            found.st_mtime,
            note.attempts if note else count.attempts,
            found.st_size,
            note.reason if note else MOVING,
        )

    def _label(self, inside: str) -> tuple[str, str]:
        try:
            envelope = self._envelope(inside, whole=False, strict=True)
        except Damaged as error:
            return "?", str(error)
        return (task_label(envelope.vars), "") if envelope is not None else ("?", "")

    def _envelope(self, inside: str, *, whole: bool, strict: bool = False) -> Envelope | None:
        """Return the content of a file, or only its variables without ``whole``. Closing it drops no lock of this
        process."""
        try:
            fd = os.open(self._directory.path(inside), _READ)
        except OSError:
            return None
        try:
            found = os.fstat(fd)
            if not stat.S_ISREG(found.st_mode):
                return None
            if whole:
                return wire.load(read_whole(fd, found.st_size, self._max_size), None)
            return wire.load_vars(os.read(fd, wire.HEADER_SIZE + wire.MAX_VARS))
        except Damaged:
            if strict:
                raise
            return None
        except OSError:
            return None
        finally:
            os.close(fd)


def _inside(place: str, ref: str) -> str:
    """Return the path of a waiting task or a dead letter within the directory."""
    return f"{ASIDE[place]}/{ref}" if place else ref


def _is_ref(ref: str) -> bool:
    """Return whether this is a task's name, alone or below a priority."""
    lead, slash, name = ref.rpartition("/")
    return is_task(name) and (not slash or is_priority(lead) is not None)


def _is_path(text: str) -> bool:
    try:
        return b"\0" not in os.fsencode(text)
    except UnicodeEncodeError:
        return False
