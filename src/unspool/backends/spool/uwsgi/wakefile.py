"""The wakefile: how uWSGI, which does not scan the directories of priorities, runs tasks with a priority.

The wakefile is a small file among the tasks without a priority, where uWSGI finds it. It exists as long as any task
with a priority waits. It is due now or, if all those tasks are deferred, when the first of them is due. If a spooler
process dies while it runs such a task, the wakefile remains and the next process finds it. A postponed task needs no
new wakefile.

A process removes the wakefile before it scans the priorities, so later arrivals create a new one. A marker file in
``.unspool/run`` says that a uWSGI needs the wakefile. The uWSGI process keeps the marker locked; without this lock, no
process creates a wakefile. Only uWSGI treats the wakefile as a task.
"""

import contextlib
import logging
import math
import os
import time
from collections.abc import Iterable, Iterator

from .... import wire
from ...base import Clock
from .. import lock
from ..directory import Directory
from ..file import open_private
from ..layout import RUN, TMP
from ..names import BELL, is_bell
from ..scan import priorities, read
from .due_list import DueList

__all__ = ["Wakefile"]

_MARK = f"{RUN}/bell"
_CONTENT = wire.dump({"msg": b"unspool_bell"}, b"", None)  # never run, so never signed
_GLANCE = 0.002  # seconds for which a process that runs tasks continuously does not check the wakefile again
_TICK = 0.02  # seconds in which two changes of a directory may have the same mtime
_log = logging.getLogger("unspool")


class Wakefile:
    """The wakefile of a directory."""

    def __init__(self, directory: Directory, clock: Clock) -> None:
        self._directory = directory
        self._clock = clock
        self._due_list = DueList(directory, clock, self._parts)
        self._mark = -1
        self._seen: dict[str, float] = {}
        self._not_before = 0.0

    # --- called after a task with a priority was made ready or deferred

    def announce(self, due: float | None) -> None:
        """Create the wakefile for a task that is due at a time (Unix time) or now, if a uWSGI needs it.

        The task is already stored, so a wakefile that cannot be created is not an error. The next one covers the task
        too.
        """
        self._not_before = 0.0
        try:
            if self._is_wanted():
                self._ring(due)
        except OSError as error:
            _log.warning(
                "cannot create the wakefile in %s: %s; uWSGI does not run tasks with a priority",
                self._directory.root,
                error,
            )

    # --- called by unspool run

    def sweep(self, names: Iterable[str]) -> None:
        """Remove these wakefiles if the uWSGI that needed them has ended."""
        with contextlib.suppress(OSError):
            if not self._is_wanted():
                for name in names:
                    os.unlink(name, dir_fd=self._directory.fd(""))

    # --- called by uWSGI

    def want(self) -> None:
        """Make senders create the wakefile while this process, or a fork of it, is alive.

        Also create it for the tasks that exist already.
        """
        if self._mark < 0:
            self._directory.fd(RUN)
            self._mark = open_private(self._directory, _MARK, os.O_CREAT)
            lock.share(self._mark)
        if any(True for _ in self._parts()):
            self._ring(None)

    def is_bell(self, ref: str) -> bool:
        """Return whether this is a wakefile and not a task."""
        return is_bell(ref)

    def rung(self, *, certain: bool = False) -> bool:
        """Return whether a wakefile is due, so that tasks with a priority should run before others.

        :param certain: False to allow noticing another process's wakefile ``_GLANCE`` later.
        """
        now = time.monotonic()
        if (now < self._not_before and not certain) or (not self._due_list and not self._due_list.may_look):
            return False
        self._not_before = now + _GLANCE
        root = self._directory.fd("")
        if not os.access(BELL, os.F_OK, dir_fd=root):  # this is the usual case, and is cheaper than an exception
            return False
        with contextlib.suppress(OSError):
            return os.stat(BELL, dir_fd=root).st_mtime <= self._clock()
        return False

    def overlooked(self, parts: Iterable[str] | None = None) -> bool:
        """Return whether the directory of a priority has changed since the last scan.

        This finds tasks that uWSGI itself wrote there, without a wakefile.

        :param parts: the priority directories, if they have just been listed.
        """
        return self._due_list.may_look and self._times(self._parts() if parts is None else parts) != self._seen

    @property
    def more(self) -> bool:
        """Return whether more due tasks are known than were handed out."""
        return bool(self._due_list)

    def urgent(self, ref: str) -> Iterator[str]:
        """Yield the refs of due tasks with a priority, in the order of execution.

        :param ref: what uWSGI has offered: a task or a wakefile.
        """
        if self._due_list.may_look or (is_bell(ref) and not self._due_list):
            self._look(ref)
        while (urgent := self._due_list.next()) is not None:
            yield urgent
            if not self._due_list:
                self._look(ref)

    def later(self, ref: str, until: float | None) -> None:
        """Do not offer a task before this time (Unix time). Pass None if another process runs it, which may die at any
        moment."""
        self._due_list.later(ref, until)

    # --- parts

    def _is_wanted(self) -> bool:
        if not os.access(self._directory.path(_MARK), os.F_OK):
            return False
        fd = open_private(self._directory, _MARK)
        try:
            return lock.held(fd)
        finally:
            os.close(fd)

    def _ring(self, due: float | None) -> None:
        now = self._clock()
        when = now if due is None or due <= now else float(math.ceil(due))  # uWSGI compares whole seconds
        # An existing wakefile for later is never changed, because two senders could undo each other's change. Another
        # one is created beside it.
        for name in (BELL, f"{BELL}_{int(when)}"):
            while (there := self._due_of(name)) is None:
                if self._make(name, when):
                    return
            if int(there) <= int(when):
                return

    def _due_of(self, name: str) -> float | None:
        try:
            return os.stat(name, dir_fd=self._directory.fd(""), follow_symlinks=False).st_mtime
        except FileNotFoundError:
            return None

    def _make(self, name: str, when: float) -> bool:
        """Create the wakefile. Return False if another process created it first."""
        self._directory.renew(TMP)
        root, tmp = self._directory.fd(""), self._directory.fd(TMP)
        draft = self._directory.drafts.name(f"{name}-{os.urandom(4).hex()}")
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        fd = self._directory.hand_over(os.open(draft, flags, 0o600, dir_fd=tmp))
        try:
            try:
                os.write(fd, _CONTENT)
                os.utime(fd, (when, when))
            finally:
                os.close(fd)
            os.link(draft, name, src_dir_fd=tmp, dst_dir_fd=root)
        except FileExistsError:
            return False
        finally:
            os.unlink(draft, dir_fd=tmp)
        return True

    def _look(self, ref: str) -> None:
        """Remove the wakefile, list the waiting tasks, and create a new wakefile for them.

        If the new one cannot be created, for example on a full disk, the old one is restored.
        """
        root = self._directory.fd("")
        # Still a wakefile, in case this process dies before it creates a new one.
        taken = f"{BELL}_taken_by_{os.getpid()}"
        with contextlib.suppress(FileNotFoundError):
            os.rename(BELL, taken, src_dir_fd=root, dst_dir_fd=root)
        self._seen = self._times(self._parts())
        self._due_list.look()
        try:
            if self._due_list or self._due_list.busy:
                self._ring(None)
            elif self._due_list.next_due is not None:
                self._ring(self._due_list.next_due)
        except OSError as error:
            _log.warning(
                "cannot create the wakefile in %s: %s; uWSGI does not run tasks with a priority",
                self._directory.root,
                error,
            )
            with contextlib.suppress(FileNotFoundError):
                os.rename(taken, BELL, src_dir_fd=root, dst_dir_fd=root)
            return
        for name in {taken, ref} - {BELL}:
            if is_bell(name):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(name, dir_fd=root)

    def _parts(self) -> Iterator[str]:
        for entries in read(self._directory):
            yield from priorities(entries)

    def _times(self, parts: Iterable[str]) -> dict[str, float]:
        found = {}
        for part in parts:
            with contextlib.suppress(OSError):
                changed = os.stat(self._directory.path(part)).st_mtime
                found[part] = changed if time.time() - changed > _TICK else -1.0
        return found
