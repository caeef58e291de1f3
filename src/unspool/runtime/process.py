"""A worker process, as its supervisor forks it, reads its reports and ends it.

Workers are forked from the supervisor, which has one thread and no user code, so a fork is safe and takes 2 ms. Each
worker leads its own process group, which contains the processes that its tasks start.
"""

import atexit
import contextlib
import math
import os
import signal
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from .. import failure
from ..backends.base import Backend, Clock, Ticket
from ..backends.registration import Registration
from ..errors import AppError
from ..message import DeferOnCrash
from ..seal import Seal
from . import report
from .events import Begun, Broken, Ended, Event, Failed, Leaving, Over, Ready, Refused, Run, Settled
from .limits import Limits
from .queue import Queue
from .report import BadReport
from .timelimit import KILL_AFTER
from .watchdog import LOST, Watchdog
from .worker import EX_LOST, EX_UNUSABLE
from .worker_process import main

__all__ = ["Process", "Spawner", "describe"]


_AHEAD_SIZE = 1 << 14  # bytes of the pipe


@dataclass(slots=True, eq=False)
class Process:
    """A worker as its supervisor sees it."""

    pid: int
    registrations: Sequence[Registration]
    reports: report.Reader
    watchdog: Watchdog
    ahead: Queue | None = None
    """The tickets that it has claimed ahead; None if no spooler supports such claims."""
    ready: bool = False
    failure: AppError | None = None
    """The error of the import of the application."""
    error: str = ""
    """The internal error with which it ended."""
    condemned: str = ""
    """Why its supervisor has killed it, other than for the time limit of a run."""
    leaving: bool = False
    """Whether it runs no more tasks, and is ending."""
    files: dict[str, float] = field(default_factory=dict)
    """The files of the application and their times of change."""
    tasks: bool = True
    """Whether the application defines any tasks."""
    deadlines: dict[Run, float] = field(default_factory=dict)
    """The time at which each run with a time limit is killed."""
    delays: dict[Run, float] = field(default_factory=dict)
    """The retry delay, in seconds, of each of these runs if it is killed."""
    put_off: Callable[[int, str, float], None] = lambda *_: None
    """Postpones a task (the index of its spooler, its ref) by a number of seconds."""
    starts: dict[Run, float] = field(default_factory=dict)
    """The reported start times of current runs that have a time limit or are coroutines."""
    unsettled: defaultdict[int, deque[Ended]] = field(default_factory=lambda: defaultdict(deque))
    """By spooler, the runs that have ended and are not settled. If it dies, its supervisor settles them."""
    overrun: set[Run] = field(default_factory=set)
    """The runs for whose time limit it was killed."""
    dismissed: bool = False
    """Whether it was told to end before it had imported the application."""
    useful: bool = False
    """Whether it has run any task."""
    slow_at: float = math.inf
    """When its slow import of the application must be logged."""
    stopped: int = 0
    """The signal that has stopped it, or 0."""

    def read(self, now: float) -> list[Event]:
        """Return its reports, and note those about the process itself.

        A worker that sends an invalid report is killed.
        """
        try:
            events = self.reports.read()
        except BadReport as error:
            events = error.events
            self.condemn(f"was killed: {error}")
        for event in events:
            if isinstance(event, Ended):  # there is one for each task
                self._note_end((event.spooler, event.ref))
                if event.fence:
                    self.unsettled[event.spooler].append(event)
            else:
                self._note(event, now)
        return events

    def _note_end(self, run: Run) -> None:
        self.useful = True
        self.watchdog.told(run)
        if self.starts:
            self.deadlines.pop(run, None)
            self.delays.pop(run, None)
            self.starts.pop(run, None)

    def _note(self, event: Event, now: float) -> None:
        match event:
            case Refused(index, ref):
                self.watchdog.told((index, ref))
            case Begun(index, ref, started, timeout, delay):
                self.starts[index, ref] = started
                if timeout is not None:
                    self.deadlines[index, ref] = now + timeout + KILL_AFTER
                    self.delays[index, ref] = delay or 0.0
            case Over(index, ref):
                self.deadlines.pop((index, ref), None)
            case Settled(index, number):
                for _ in range(min(number, len(self.unsettled[index]))):
                    self.unsettled[index].popleft()
            case Ready(files, tasks):
                self.ready, self.files, self.tasks = True, files, tasks
            case Failed(reason, traceback):
                self.failure = AppError(reason, traceback)
            case Broken(reason):
                self.error = reason
            case Leaving():
                self.leaving = True

    def start_of(self, index: int, ref: str) -> float | None:
        """Return the start time of a run whose end it has not reported."""
        registration = self.registrations[index]
        return self.starts.get((index, ref)) or (registration.since() if registration.ref() == ref else None)

    def runs(self) -> set[Run]:
        """Return the runs that it executes, or was executing when it died."""
        return self.starts.keys() | self.shown()

    def shown(self) -> set[Run]:
        """Return the runs that its registrations show."""
        return {(index, ref) for index, registration in enumerate(self.registrations) if (ref := registration.ref())}

    def recall(self) -> list[tuple[int, Ticket]]:
        """Take back and return the tasks that it has claimed ahead and not begun."""
        return self.ahead.recall() if self.ahead is not None else []

    def kill(self) -> None:
        """Kill it."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)

    def dismiss(self) -> None:
        """Kill it if it is still importing the application, which may take forever.

        A worker that has just begun a run ends after that, because it handles the signal once the import is done.
        """
        if not self.ready:
            self.dismissed = True
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGTERM)

    def condemn(self, why: str) -> None:
        """Kill it, for a reason that its supervisor logs."""
        if not self.condemned:
            self.condemned = why
            self.kill()

    def watch(self, now: float, *, to_end: bool, away: bool) -> None:
        """Kill it if a run overruns, if it sends no reports, or if it should end and does not.

        :param to_end: whether it was told to end.
        :param away: whether a spooler is unreachable, for which it may be waiting.
        """
        self._kill_if_overrun(now)
        why = self.watchdog.look(
            now, self.shown(), self.starts.keys(), to_end=to_end or self.leaving, away=away, closed=self.reports.ended
        )
        if why:
            self.condemn(why)

    def next_watch(self) -> float | None:
        """Return when ``watch`` has something to do; None if nothing has to be watched."""
        deadline = self.watchdog.deadline
        return min((*self.deadlines.values(), *([] if deadline is None else [deadline])), default=None)

    def kill_children(self) -> None:
        """After its death, kill the processes that its last run has started, because the task is about to run again."""
        self._signal_group(signal.SIGKILL)

    def stop(self) -> None:
        """Stop its process group, which includes the processes of its tasks, until ``go_on``."""
        self._signal_group(signal.SIGSTOP)

    def go_on(self) -> None:
        """Continue its process group after a stop."""
        self.stopped = 0
        self._signal_group(signal.SIGCONT)

    @property
    def busy(self) -> bool:
        """Return whether it may be running the user's code: a task, or the import of the application."""
        return not self.ready or bool(self.runs())

    def _signal_group(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number)

    def _kill_if_overrun(self, now: float) -> None:
        """Kill it if a run did not end at its time limit."""
        if self._put_off_overrun(now):  # first, because another worker could begin the task in between
            self.kill()

    def _put_off_overrun(self, now: float) -> bool:
        """Note the runs that exceeded their time limits, and postpone their tasks. Return whether there are any."""
        if not self.deadlines or min(self.deadlines.values()) > now:
            return False
        self.overrun.update(run for run, at in self.deadlines.items() if at <= now)
        self.deadlines.clear()
        for index, ref in self.overrun:
            if delay := self.delays.get((index, ref)):
                self.put_off(index, ref, delay)
        return True

    def note_death(self, code: int, now: float) -> None:
        """Note whether the kernel killed it for a time limit, as happens while the supervisor is stopped.

        :param code: its exit status, or minus the number of the signal that killed it.
        """
        if code == -signal.SIGKILL:
            self._put_off_overrun(now)

    def end_of(self, code: int) -> str:
        """Return a description of how it ended.

        :param code: its exit status, or minus the number of the signal that killed it.
        """
        if code == -signal.SIGKILL and self.overrun:
            return "was killed for overrunning the task's time limit"
        if code == -signal.SIGKILL and self.condemned:
            return self.condemned
        return f"failed: {self.error}" if code > 0 and self.error else describe(code)

    def close(self) -> None:
        """Release its resources after its death."""
        self.reports.close()
        if self.ahead is not None:
            self.ahead.close_reader()
        for registration in self.registrations:
            registration.close()


class Spawner:
    """Forks workers.

    :param close_others: called in the child, to close what belongs only to the supervisor.
    """

    def __init__(
        self,
        app: str,
        backends: Sequence[Backend],
        seals: Sequence[Seal],
        limits: Limits,
        clock: Clock,
        close_others: Callable[[], None],
    ) -> None:
        self.app = app
        self._backends = backends
        self._seals = seals
        self._limits = limits
        self._clock = clock
        self._close_others = close_others

    def spawn(self, queue: Queue) -> Process:
        """Fork a worker, and return it.

        :raises OSError: if there can be no further process or descriptor.
        """
        registrations = [backend.register("worker") for backend in self._backends]
        with contextlib.ExitStack() as undo:
            for registration in registrations:
                undo.callback(registration.close)
                undo.callback(registration.detach)
            reader, writer = os.pipe()
            undo.callback(os.close, reader)
            undo.callback(os.close, writer)
            ahead = None
            if any(backend.capabilities.batches for backend in self._backends):
                ahead = Queue(_AHEAD_SIZE)
                undo.callback(ahead.close_reader)
                undo.callback(ahead.close_writer)
            # The child must not handle TERM by the handler of the supervisor.
            mask = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
            undo.callback(signal.pthread_sigmask, signal.SIG_SETMASK, mask)
            pid = os.fork()
            undo.pop_all()
        if pid == 0:
            os.setpgid(0, 0)
            self._live(queue, ahead, registrations, reader, writer, mask)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        with contextlib.suppress(OSError):  # in both processes, because either may be first; the child may be dead
            os.setpgid(pid, pid)
        os.close(writer)
        if ahead is not None:
            ahead.close_writer()
        for registration in registrations:
            registration.detach()
        watchdog = Watchdog(self._limits.ending)
        reports = report.Reader(reader, len(self._backends))
        return Process(pid, registrations, reports, watchdog, ahead, put_off=self._put_off)

    def _put_off(self, index: int, ref: str, seconds: float) -> None:
        self._backends[index].mark(ref, DeferOnCrash(self._clock() + seconds))

    def _live(
        self,
        queue: Queue,
        ahead: Queue | None,
        registrations: Sequence[Registration],
        reader: int,
        writer: int,
        mask: Iterable[int],
    ) -> None:
        """Run the child process, and exit. It never returns into the supervisor's code."""
        status = 70
        pipe = os.fstat(writer)
        try:
            for number in (signal.SIGINT, signal.SIGHUP):
                signal.signal(number, signal.SIG_IGN)  # until the worker sets its own handlers
            for number in (signal.SIGTERM, signal.SIGQUIT, signal.SIGCHLD, signal.SIGTSTP):
                signal.signal(number, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            signal.set_wakeup_fd(-1)
            atexit._clear()
            os.close(reader)
            self._close_others()
            reports = report.Writer(writer)
            serving = self._backends, self._seals, registrations
            status = main(self.app, *serving, queue, ahead, reports, self._limits, clock=self._clock)
        except BaseException as error:  # noqa: BLE001  no exception may reach the supervisor's code
            with contextlib.suppress(OSError):  # a task may have closed the pipe, or replaced it with a file
                if os.path.samestat(os.fstat(writer), pipe):
                    report.Writer(writer).write(Broken(failure.reason(error)))
        finally:
            os._exit(status)


def describe(code: int) -> str:
    """Return a description of an exit code."""
    if code == EX_LOST:
        return LOST
    if code == EX_UNUSABLE:
        return "ended because a task left it in a state that cannot be restored"
    return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
