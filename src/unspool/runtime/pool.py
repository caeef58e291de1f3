"""Worker processes: forking them, hearing from them, replacing them.

Workers are forked from the supervisor, which has imported no user code and has one thread, so a fork costs 2 ms and is
safe. A generation shares one queue; a reload is a new generation, and closing the old one's queue ends its workers when
they are done.
"""

import atexit
import contextlib
import os
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..backends.base import Backend, Clock, Presence
from . import report
from .queue import Queue
from .worker import Limits, main

__all__ = ["Generation", "Process", "Spawner"]


@dataclass(slots=True, eq=False)
class Process:
    """A worker process as its supervisor sees it."""

    pid: int
    started: float
    presences: Sequence[Presence]
    reports: report.Reader
    ready: bool = False
    failure: str = ""
    files: dict[str, float] = field(default_factory=dict)
    deadlines: dict[tuple[int, str], float] = field(default_factory=dict)
    overrun: bool = False

    def kill(self) -> None:
        """Ends it at once."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)

    def read(self) -> list[list[Any]]:
        """What it has reported; its own events (ready, failed, begin) are noted too."""
        events = self.reports.read()
        for event in events:
            match event:
                case [report.READY, dict(files)]:
                    self.ready, self.files = True, files
                case [report.FAILED, str(text)]:
                    self.failure = text
        return events

    def close(self) -> None:
        """After its death: lets go of what was held for it."""
        self.reports.close()
        for presence in self.presences:
            presence.close()


@dataclass(slots=True, eq=False)
class Generation:
    """Workers of one import of the application, and the queue that they share."""

    queue: Queue = field(default_factory=Queue)
    processes: dict[int, Process] = field(default_factory=dict)
    retired: bool = False
    quick_deaths: int = 0
    respawn_at: float | None = None

    @property
    def ready(self) -> bool:
        """Whether all its workers have imported the application."""
        return all(process.ready for process in self.processes.values())

    @property
    def failure(self) -> str:
        """Why one of them could not."""
        return next((process.failure for process in self.processes.values() if process.failure), "")

    def retire(self) -> None:
        """No more work for these: they end with what they run."""
        if not self.retired:
            self.retired = True
            self.queue.close_writer()

    def kill(self) -> None:
        """Ends all of them at once."""
        for process in self.processes.values():
            process.kill()


class Spawner:
    """Forks workers.

    :param close_others: called in the child, to close what belongs to the supervisor alone.
    """

    def __init__(
        self, app: str, backends: Sequence[Backend], limits: Limits, clock: Clock, close_others: Callable[[], None]
    ) -> None:
        self._app = app
        self._backends = backends
        self._limits = limits
        self._clock = clock
        self._close_others = close_others

    def spawn(self, generation: Generation) -> Process:
        """A new worker of a generation."""
        presences = [backend.control.enlist("worker") for backend in self._backends]
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            self._live(generation.queue, presences, reader, writer)
        os.close(writer)
        for presence in presences:
            presence.hand_over()
        process = Process(pid, self._clock(), presences, report.Reader(reader))
        generation.processes[pid] = process
        return process

    def _live(self, queue: Queue, presences: Sequence[Presence], reader: int, writer: int) -> None:
        """The child's life; it never returns into the supervisor's code."""
        status = 70
        try:
            for number in (signal.SIGINT, signal.SIGHUP):
                signal.signal(number, signal.SIG_IGN)  # a terminal sends them to all; the supervisor answers
            for number in (signal.SIGTERM, signal.SIGQUIT, signal.SIGCHLD):
                signal.signal(number, signal.SIG_DFL)
            signal.set_wakeup_fd(-1)
            atexit._clear()
            os.close(reader)
            self._close_others()
            status = main(self._app, self._backends, presences, queue, report.Writer(writer), self._limits, self._clock)
        except BaseException as error:  # noqa: BLE001  nothing may unwind into the supervisor's frames
            os.write(2, f"unspool: worker {os.getpid()} failed: {type(error).__name__}: {error}\n".encode())
        finally:
            os._exit(status)
