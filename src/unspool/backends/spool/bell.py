"""The bell: how tasks with a priority are run by a uWSGI that does not look into their directories.

A small file among the tasks without a priority, where uWSGI looks. Once rung, it is there as long as any task with a
priority is: due now, or, if all are deferred, when the first of them is. So a spooler process that dies while it runs
such a task leaves it, and the next one comes upon it; and a task that is put off needs no ringing.

Whoever looks at the priorities takes the bell away first: what arrives afterwards rings anew. A mark in
``.unspool/run`` says that a uWSGI needs it; without the mark nobody rings. To everybody but uWSGI the bell is no task.
"""

import contextlib
import logging
import math
import os
import time
from collections import deque
from collections.abc import Iterator

from ... import wire
from ..base import Clock
from .layout import BELL, PREFIX, RUN, TMP, Directory, hint, is_bell, is_priority

__all__ = ["Bell"]

_MARK = "bell"
_CONTENT = wire.dump({"msg": b"unspool_bell"}, b"", None)  # never run, so never signed
_SHARE = 20  # of the time, at most one part in so many goes into looking at the priorities
_BUSY = 1.0  # seconds in which a process leaves a task alone that somebody else runs
_SLACK = 1.0  # seconds by which a name may be ahead of its task, as after the clock was set back; a claim finds out
_log = logging.getLogger("unspool")


class Bell:
    """The bell of a directory."""

    def __init__(self, directory: Directory, clock: Clock) -> None:
        self._directory = directory
        self._clock = clock
        self._due: deque[str] = deque()
        self._later: dict[str, float] = {}
        self._busy: set[str] = set()
        self._not_before = 0.0

    # --- whoever has made a task with a priority ready, or deferred it

    def announce(self, due: float | None) -> None:
        """Rings for a task that is due then (unix seconds), or now, if there is a uWSGI that needs it.

        The task is safe by now, so a bell that cannot be made is no error: the next one serves for it, too.
        """
        if os.access(self._directory.path(f"{RUN}/{_MARK}"), os.F_OK):
            try:
                self._ring(due)
            except OSError as error:
                _log.warning("no bell in %s for uWSGI: %s; tasks with a priority wait", self._directory.root, error)

    # --- uWSGI

    def want(self) -> None:
        """Has everybody ring from now on; rings for what is there."""
        mark = os.open(_MARK, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600, dir_fd=self._directory.fd(RUN))
        os.close(mark)
        if any(True for _ in self._parts()):
            self._ring(None)

    def is_bell(self, ref: str) -> bool:
        """Whether this is no task but a bell."""
        return is_bell(ref)

    def rung(self) -> bool:
        """Whether there is a bell for now, so that tasks with a priority should be run before others."""
        if not self._due and time.monotonic() < self._not_before:
            return False
        with contextlib.suppress(OSError):
            return os.stat(BELL, dir_fd=self._directory.fd("")).st_mtime <= self._clock()
        return False

    def urgent(self, ref: str) -> Iterator[str]:
        """The refs of due tasks with a priority, in the order of running. Run the first that can be claimed, and stop.

        :param ref: the task that uWSGI has locked; if that is a bell, it is let go of, for other processes to hear it.
        """
        asked = is_bell(ref)
        if asked:
            with contextlib.suppress(OSError):  # closing any descriptor drops uWSGI's lock
                os.close(os.open(self._directory.path(ref), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC))
        if time.monotonic() >= self._not_before or (asked and not self._due):
            self._look(ref)
        while self._due:
            yield self._due.popleft()
            if not self._due:
                self._look(ref)

    def later(self, ref: str, until: float | None) -> None:
        """The task of ``ref`` is not to be offered before then (unix seconds); None if somebody else runs it, who may
        die any moment."""
        self._later[ref] = self._clock() + _BUSY if until is None else until
        if until is None:
            self._busy.add(ref)

    # --- parts

    def _ring(self, due: float | None) -> None:
        now = self._clock()
        when = now if due is None or due <= now else float(math.ceil(due))  # uWSGI compares whole seconds
        root, name = self._directory.fd(""), BELL
        while True:
            try:
                if os.stat(name, dir_fd=root).st_mtime <= when:
                    return
            except FileNotFoundError:
                if self._make(name, when):
                    return
            else:  # a bell for later, which is never changed, or two who ring would undo each other's
                name = f"{BELL}_{int(when)}"

    def _make(self, name: str, when: float) -> bool:
        """Whether it was made: somebody else may have been quicker."""
        root, tmp = self._directory.fd(""), self._directory.fd(TMP)
        draft = f"{name}-{os.getpid()}-{os.urandom(4).hex()}"
        fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=tmp)
        try:
            os.write(fd, _CONTENT)
            os.utime(fd, (when, when))
        finally:
            os.close(fd)
        try:
            os.link(draft, name, src_dir_fd=tmp, dst_dir_fd=root)
        except FileExistsError:
            return False
        finally:
            os.unlink(draft, dir_fd=tmp)
        return True

    def _look(self, ref: str) -> None:
        """Takes the bell away, notes what waits, and rings for that."""
        started, root = time.monotonic(), self._directory.fd("")
        taken = f"{BELL}_taken_by_{os.getpid()}"  # still a bell, if this process dies before it rings
        with contextlib.suppress(FileNotFoundError):
            os.rename(BELL, taken, src_dir_fd=root, dst_dir_fd=root)
        now = self._clock()
        due: list[tuple[int, float, str]] = []
        later: dict[str, float] = {}
        for part in self._parts():
            with contextlib.suppress(OSError):
                for name in os.listdir(self._directory.path(part)):
                    if name.startswith(PREFIX):
                        waiting = f"{part}/{name}"
                        at = self._later.get(waiting, hint(name))
                        if at > now + (0.0 if waiting in self._later else _SLACK):
                            later[waiting] = at
                        else:
                            due.append((int(part), at, waiting))
        self._later = later
        self._busy &= later.keys()
        self._due = deque(waiting for _, _, waiting in sorted(due))
        if due or self._busy:
            self._ring(None)
        elif later:
            self._ring(min(later.values()))
        for name in {taken, ref} - {BELL}:
            if is_bell(name):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(name, dir_fd=root)
        ended = time.monotonic()
        self._not_before = ended + _SHARE * (ended - started)

    def _parts(self) -> Iterator[str]:
        with contextlib.suppress(OSError), os.scandir(self._directory.root) as entries:
            yield from (entry.name for entry in entries if is_priority(entry.name))
