"""Changes of single tasks in a spool directory: run now, remove, another priority.

A change takes the task's lock, as a worker does, so that a task cannot start while it is changed. A task is moved by
one ``rename``, so after a kill it is at one of the two places. Its count of attempts is an extended attribute and moves
with the file. Where counts are separate files, the count is first written under the new name. ``sweep`` removes a count
that has no task.
"""

import contextlib
import os
import stat
from collections.abc import Callable, Iterator

from ... import points
from ...errors import TaskBusy
from ..base import Clock
from ..change import Change, Remove, Reprioritise, RunNow, kept_out
from ..depot import MOVING
from . import lock
from .attempts import Attempts
from .dead_letters import bring_back, discard, reprioritise
from .directory import Directory
from .ids import inside, is_at, places
from .keys import Keys
from .layout import priority_of
from .leaving import under_way
from .names import hint, renamed

__all__ = ["Changing"]


class Changing:
    """Change the tasks of a directory that are not running."""

    def __init__(self, directory: Directory, attempts: Callable[[], Attempts], keys: Keys, clock: Clock) -> None:
        self._keys = keys
        self._directory = directory
        self._attempts = attempts
        self._clock = clock

    def change(self, id: str, change: Change) -> str:
        """Change a task, and return its id.

        :raises LookupError, TaskBusy: as ``base.Backend.change``.
        """
        place, ref = self.locate(id)
        match change:
            case RunNow():
                return self._run_now(place, ref)
            case Remove():
                self._remove(place, ref)
                return id
            case Reprioritise(priority):
                return self._reprioritise(place, ref, priority)

    def locate(self, id: str) -> tuple[str, str]:
        """Return the state of a dead letter, or an empty text for a waiting task, and the task's ref.

        :raises LookupError: if it does not exist.
        :raises TaskBusy: if it is being moved to another spooler.
        """
        known = set(places(self._directory.root, id))
        for place, ref in places(self._directory.root, id):
            if is_at(self._directory.root, place, ref):
                return place, ref
        if known and any((one.place, one.ref) in known for one in under_way(self._directory)):
            raise TaskBusy(f"task {id} {MOVING}")
        raise LookupError(f"no task {id} in spooler {self._directory.root}")

    def _run_now(self, place: str, ref: str) -> str:
        """Make a task ready now and reset its attempts. It is renamed if its name contains a later time."""
        self._require_file(place, ref, regular=True)
        now = self._clock()
        # Scans rely on a name's time never being later than its task's, and no waiting task may be replaced.
        taken = place and os.path.lexists(self._directory.path(ref))
        target = self._free(ref, now) if taken or hint(ref) > now else ref
        if place:
            with self._keys.taken(target) as holder:
                if holder is not None:
                    raise kept_out(self._directory.path(inside(place, ref)), self._directory.path(holder))
                self._attempts().clear(inside(place, ref))
                if not taken:  # otherwise the count is that of the other task
                    self._attempts().clear(ref)
                with self._present(ref):
                    bring_back(self._directory, place, ref, target, now)
        else:
            with self._held(ref):
                self._attempts().clear(ref)
                os.utime(self._directory.path(ref), (now, now), follow_symlinks=False)
                if target != ref:
                    with self._keys.renamed(ref, target):
                        os.rename(self._directory.path(ref), self._directory.path(target))
        return self._directory.path(target)

    def _remove(self, place: str, ref: str) -> None:
        self._require_file(place, ref, regular=False)
        if place:
            with self._present(ref):
                discard(self._directory, place, ref)
        else:
            with self._held(ref):
                os.unlink(self._directory.path(ref))
        if self._attempts().outlive:
            self._attempts().clear(ref)

    def _reprioritise(self, place: str, ref: str, priority: int | None) -> str:
        self._require_file(place, ref, regular=True)
        name = os.path.basename(ref)
        target = name if priority is None else f"{priority}/{name}"
        if priority_of(ref) == priority:
            return self._directory.path(inside(place, ref))
        if place:
            with self._present(ref):
                return self._directory.path(reprioritise(self._directory, place, ref, target, self._clock()))
        with self._held(ref):
            if os.path.lexists(self._directory.path(target)):  # a copy that a user has put there
                target = self._free(target, min(hint(ref), self._clock()))
            attempts = self._attempts()
            if attempts.outlive:
                attempts.write(self._directory.path(ref), target, attempts.read(ref))
            points.reach("reprioritise.begin")
            part, _, base = target.rpartition("/")
            self._directory.renew(*([part] if part else []))
            target_at, base = self._directory.place(part, base) if part else (self._directory.fd(""), base)
            at, name = self._directory.at(ref)
            with self._keys.renamed(ref, target):
                os.rename(name, base, src_dir_fd=at, dst_dir_fd=target_at)
            points.reach("reprioritise.renamed")
            if attempts.outlive:
                attempts.clear(ref)
        return self._directory.path(target)

    def _free(self, ref: str, now: float) -> str:
        """Return the ref with a time at its end that is not after now, under which no other file exists."""
        while os.path.lexists(self._directory.path(target := renamed(ref, now))):
            now -= 1e-6
        return target

    def _require_file(self, place: str, ref: str, *, regular: bool) -> None:
        """Check that a task's name belongs to a file.

        :param regular: whether to refuse links and FIFOs as well as directories.
        :raises LookupError: if it is refused.
        """
        path = self._directory.path(inside(place, ref))
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
