"""The backend inside a real uWSGI: a spool directory whose tasks uWSGI's own spooler processes take.

After a send, all of these processes are woken. uWSGI itself wakes only idle ones, and a busy one would then wait for
its next period.

uWSGI offers tasks in no order. It scans the directories of priorities only with ``spooler-ordered``, and never in cheap
mode. An offered task is therefore only a sign that there is work, and the task that comes next is run instead (see
``due_list``). For tasks with a priority, a wakefile is created where uWSGI scans (see ``wakefile``). A call runs tasks
until none is due, or one task if uWSGI limits the time of a call (harakiri) or the number of tasks.
"""

import contextlib
import os
import signal
import time
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import Any

from .... import forks
from ....errors import ConfigurationError
from ....message import Envelope, Record
from ...base import Capabilities, Switches, WorkerInfo
from ...registration import Registration
from ..store import SpoolBackend
from .due_list import DueList
from .server import text

__all__ = ["UwsgiBackend"]

_GLANCE = 0.002  # seconds for which a process that runs tasks continuously does not check for a pause again


class UwsgiBackend(SpoolBackend):
    """A spool directory inside the uWSGI that runs its tasks.

    :param root: the absolute path of the directory.
    :param uwsgi: the ``uwsgi`` module.
    :param options: those of ``SpoolBackend``.
    """

    capabilities = Capabilities(feeds=False, forks=True, unique=True, journals=True)

    def __init__(self, root: str, uwsgi: ModuleType, *, period: float = 300.0, **options: Any) -> None:
        super().__init__(root, period=period, **options)
        self._uwsgi = uwsgi
        names = {text(key) for key in uwsgi.opt}
        self._elsewhere = "spooler-chdir" in names
        self.one_a_call = bool(names & {"spooler-harakiri", "spooler-max-tasks"})
        """Whether a call may run only one task."""
        self._real = os.path.realpath(root)
        self._due_list = DueList(self._directory, self._clock, lambda: [""])
        self._registration: Registration | None = None
        forks.register(after_in_child=self._forget_registration)
        self._not_before = 0.0

    def send(self, envelopes: Sequence[Envelope]) -> list[str]:
        if not self._uwsgi.masterpid() and self._pids():
            raise ConfigurationError(
                "this uWSGI has no master process, so its spoolers are not restarted when they die, and outlive "
                "uWSGI when it ends; start it with --master"
            )
        try:
            return super().send(envelopes)
        finally:
            self.wake()  # also for tasks that were sent before an error

    # --- for the handler

    def enter(self) -> None:
        """Make all senders create what this uWSGI needs, and apply the stored period."""
        self.wakefile.want()
        self._keep_period()

    @property
    def registration(self) -> Registration:
        """Return the registration of this process, which shows others its current task."""
        self._registration = self._registration or self.register("worker")
        return self._registration

    def _forget_registration(self) -> None:
        self._registration = None

    def ref(self, name: str) -> str | None:
        """Return the ref of the task that uWSGI calls by this name now; None if it is not in this directory."""
        path = self._path(name)
        if path is None or not path.startswith(f"{self._real}/"):
            return None
        return path[len(self._real) + 1 :]

    def let_go(self, ref: str) -> None:
        """Release uWSGI's lock on a file in this process. A POSIX lock ends when any descriptor of the file is
        closed."""
        with contextlib.suppress(OSError):
            at, name = self._directory.at(ref)
            os.close(os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=at))

    def is_bell(self, ref: str) -> bool:
        """Return whether this is a wakefile and not a task."""
        return self.wakefile.is_bell(ref)

    def upcoming(self, ref: str) -> Iterator[str]:
        """Yield the refs of due tasks in the order of execution.

        :param ref: what uWSGI has offered, which may be among them.
        """
        wakefile, plain = self.wakefile, self._due_list
        rung = wakefile.is_bell(ref) or wakefile.rung()
        if rung:
            yield from wakefile.urgent(ref)
        known = not plain or not plain.may_look  # true in a large directory, whose last look took long
        if not plain and plain.may_look:
            plain.look()
        if not rung and wakefile.overlooked(plain.priorities if known else None):
            yield from wakefile.urgent(ref)
        while (name := plain.next()) is not None:
            yield name
            if wakefile.rung():
                yield from wakefile.urgent(ref)
            if not plain and plain.may_look:
                plain.look()
        for name in plain.busy:  # another process of uWSGI may have tried the task at that moment without running it
            plain.tried(name)
            yield name
        if wakefile.rung(certain=True):  # otherwise it would wait for uWSGI's next scan
            yield from wakefile.urgent(ref)

    @property
    def more(self) -> bool:
        """Whether more tasks are known to be due than ``upcoming`` has yielded."""
        return bool(self._due_list) or self.wakefile.more

    def later(self, ref: str, until: float | None) -> None:
        """Do not offer a task before this time (Unix time); None if another process runs it."""
        numbered = "/" in ref
        (self.wakefile if numbered else self._due_list).later(ref, until)

    def wake(self) -> None:
        """Make all processes of this spooler look again; this one does so after the call."""
        for pid in self._pids():
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGUSR1)

    def _pids(self) -> list[int]:
        """Return the live processes of this spooler. uWSGI lists one process for each entry in its list of spoolers."""
        pairs = zip(self._uwsgi.spoolers, self._uwsgi.spooler_pids(), strict=False)
        return [pid for spooler, pid in pairs if pid > 0 and text(spooler) == self._real]

    def _path(self, name: str) -> str | None:
        """Return the path of a task that uWSGI names relative to its directory.

        That directory is the working directory, unless uWSGI has the option ``spooler-chdir``.
        """
        if not self._elsewhere:
            return f"{os.getcwd()}/{name}"
        for fd in os.listdir("/proc/self/fd"):  # the process has the file open
            with contextlib.suppress(OSError):
                path = os.readlink(f"/proc/self/fd/{fd}")
                if path.endswith(f"/{name}"):
                    return path
        return None

    # --- switches and processes

    @property
    def paused(self) -> bool:
        """Return whether no task may be started. This is checked before each task."""
        now = time.monotonic()
        if now < self._not_before:
            return False
        paused = self._switches.paused
        if not paused:  # a process woken by the end of a pause must not rely on an old value
            self._not_before = now + _GLANCE
        return paused

    def switch(self, *, paused: bool | None = None, period: float | None = None) -> Switches:
        switches = super().switch(paused=paused, period=period)
        if paused:
            self._not_before = 0.0
        if period is not None:
            self._keep_period()
        if paused is False or period is not None:  # otherwise they would wait for the former period
            self.wake()
        return switches

    def _keep_period(self) -> None:
        """Apply the stored period to uWSGI, including one set under an earlier uWSGI."""
        self._uwsgi.set_spooler_frequency(max(1, round(self._switches.period)))

    def live(self) -> list[WorkerInfo]:
        seen = super().live()
        known = {info.pid for info in seen}
        return [WorkerInfo("worker", pid, "", 0.0) for pid in self._pids() if pid not in known] + seen

    # --- as a worker

    def record(self, records: Sequence[Record], *, journal: bool = True) -> None:
        super().record(records, journal=True)  # this process is never the only one
