"""The wakefile: how tasks with a priority are run by a uWSGI that does not look into their directories.

A small file among the tasks without a priority, where uWSGI looks. Once rung, it is there as long as any task with a
priority is: due now, or, if all are deferred, when the first of them is. So a spooler process that dies while it runs
such a task leaves it, and the next one comes upon it; and a task that is put off needs no ringing.

Whoever looks at the priorities takes the bell away first: what arrives afterwards rings anew. A mark in
``.unspool/run`` says that a uWSGI needs it, and is locked as long as that lives; otherwise nobody rings. To everybody
but uWSGI the bell is no task.
"""

import contextlib
import logging
import math
import os
import time
from collections.abc import Iterable, Iterator

from ... import wire
from ..base import Clock
from . import lock
from .due_list import DueList
from .file import open_private
from .layout import BELL, RUN, TMP, Directory, is_bell, is_priority

__all__ = ["Wakefile"]

_MARK = f"{RUN}/bell"
_CONTENT = wire.dump({"msg": b"unspool_bell"}, b"", None)  # never run, so never signed
_GLANCE = 0.002  # seconds in which a process that runs one task after the other does not look for a bell again
_TICK = 0.02  # seconds in which two changes of a directory may bear the same time
_log = logging.getLogger("unspool")


class Wakefile:
    """The bell of a directory."""

    def __init__(self, directory: Directory, clock: Clock) -> None:
        self._directory = directory
        self._clock = clock
        self._due_list = DueList(directory, clock, self._parts)
        self._mark = -1
        self._seen: dict[str, float] = {}
        self._not_before = 0.0

    # --- for processes that have made a task with a priority ready, or deferred it

    def announce(self, due: float | None) -> None:
        """Ring for a task that is due at a time (unix seconds) or now, if there is a uWSGI that needs it.

        The task is safe by now, so a bell that cannot be made is no error: the next one serves for it, too.
        """
        self._not_before = 0.0
        try:
            if self._is_wanted():
                self._ring(due)
        except OSError as error:
            _log.warning("no bell in %s for uWSGI: %s; tasks with a priority wait", self._directory.root, error)

    # --- unspool run

    def sweep(self, names: Iterable[str]) -> None:
        """Take these bells away, if they were rung for a uWSGI that is there no more."""
        with contextlib.suppress(OSError):
            if not self._is_wanted():
                for name in names:
                    os.unlink(name, dir_fd=self._directory.fd(""))

    # --- uWSGI

    def want(self) -> None:
        """Make all senders ring as long as this process, or a fork of it, is alive.

        Ring for the tasks that exist.
        """
        if self._mark < 0:
            self._directory.fd(RUN)
            self._mark = open_private(self._directory, _MARK, os.O_CREAT)
            lock.share(self._mark)
        if any(True for _ in self._parts()):
            self._ring(None)

    def is_bell(self, ref: str) -> bool:
        """Return whether this is no task but a bell."""
        return is_bell(ref)

    def rung(self, *, certain: bool = False) -> bool:
        """Return whether there is a bell for now, so that tasks with a priority should be run before others.

        :param certain: or else one of another process's may be noticed ``_GLANCE`` later.
        """
        now = time.monotonic()
        if (now < self._not_before and not certain) or (not self._due_list and not self._due_list.may_look):
            return False
        self._not_before = now + _GLANCE
        root = self._directory.fd("")
        if not os.access(BELL, os.F_OK, dir_fd=root):  # cheaper than an exception, and most often so
            return False
        with contextlib.suppress(OSError):
            return os.stat(BELL, dir_fd=root).st_mtime <= self._clock()
        return False

    def overlooked(self, parts: Iterable[str] | None = None) -> bool:
        """Return whether a directory of a priority has changed since the last look.

        This finds tasks that uWSGI itself has put there, which does not ring.

        :param parts: these directories, if they have just been listed.
        """
        return self._due_list.may_look and self._times(self._parts() if parts is None else parts) != self._seen

    @property
    def more(self) -> bool:
        """Whether more than has been given out is known to be due."""
        return bool(self._due_list)

    def urgent(self, ref: str) -> Iterator[str]:
        """Yield the refs of due tasks with a priority, in the order of running.

        :param ref: what uWSGI has offered: a task, or a bell.
        """
        if self._due_list.may_look or (is_bell(ref) and not self._due_list):
            self._look(ref)
        while (urgent := self._due_list.next()) is not None:
            yield urgent
            if not self._due_list:
                self._look(ref)

    def later(self, ref: str, until: float | None) -> None:
        """Do not offer the task of ``ref`` before this time (unix seconds). None if another process runs it, which may
        die any moment.
        """
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
        # One for later is never changed, or two who ring would undo each other's; but another is put beside it.
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
        """Create the bell, and return whether this process created it: another one may have been faster."""
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
        """Remove the bell, list the waiting tasks, and ring for them.

        A bell that cannot be made, as on a full disk, is replaced by the one that was there.
        """
        root = self._directory.fd("")
        taken = f"{BELL}_taken_by_{os.getpid()}"  # still a bell, if this process dies before it rings
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
            _log.warning("no bell in %s for uWSGI: %s; tasks with a priority wait", self._directory.root, error)
            with contextlib.suppress(FileNotFoundError):
                os.rename(taken, BELL, src_dir_fd=root, dst_dir_fd=root)
            return
        for name in {taken, ref} - {BELL}:
            if is_bell(name):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(name, dir_fd=root)

    def _parts(self) -> Iterator[str]:
        with contextlib.suppress(OSError), os.scandir(self._directory.root) as entries:
            yield from (entry.name for entry in entries if is_priority(entry.name))

    def _times(self, parts: Iterable[str]) -> dict[str, float]:
        found = {}
        for part in parts:
            with contextlib.suppress(OSError):
                changed = os.stat(self._directory.path(part)).st_mtime
                found[part] = changed if time.time() - changed > _TICK else -1.0
        return found
