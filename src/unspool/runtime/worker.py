"""A worker: takes tickets, claims, runs, settles, and reports each step to its supervisor."""

import errno
import logging
import os
import signal
import threading
from collections.abc import Sequence
from typing import Any

from .. import codec, dispatch, points
from ..backends.base import Backend, Clock, Ticket
from ..backends.registration import Registration
from ..current import running
from ..errors import ClaimLost, Damaged, SpoolerUnusable
from ..message import SUCCEEDED, Ack, Claim, End, Outcome, Record, Refusal, RefusalKind, Release, Verdict
from ..options import TaskOptions
from ..printable import printable
from ..retry import MAX_CRASHES
from ..seal import Seal, end_of_damaged, lack_of_memory, refusal_of_damaged
from . import connections, report
from .eventloop import EventLoop
from .events import Begun, Broken, Ended, Leaving, Over, Refused, Settled
from .exchange import Exchange
from .hardlimit import HardLimit
from .limits import Limits
from .orphan import keep_end
from .prefetch import Prefetch
from .process_state import ProcessState
from .queue import Queue
from .suspicion import Suspicion
from .timelimit import KILL_AFTER, limit
from .waker import Waker
from .watchdog import LATER

__all__ = ["EX_LOST", "EX_UNUSABLE", "Worker"]


_log = logging.getLogger("unspool")
EX_OSERR = 71  # as in sysexits.h
EX_LOST = 72
"""The exit status of a worker whose task closed descriptors that were not its own."""
EX_UNUSABLE = 73
"""The exit status of a worker whose process is in a state that cannot be restored."""

_REPAIR_AFTER = 0.005  # seconds that a run takes; a check then takes less than a hundredth of the time
_REPAIR_EVERY = 0.02  # seconds between two checks if runs are shorter
_DOUBTFUL = (RefusalKind.GONE, RefusalKind.UNUSABLE)  # refusals that may be caused by a changed worker
_BEFORE_OTHERS = 1.0  # seconds until another worker tries what this one could not


class Worker:
    """Runs tasks from the queue until the queue is closed, a limit is reached, or SIGTERM arrives.

    :param ahead: a pipe for the tickets of tasks that are claimed ahead; None if no backend supports such claims. The
        supervisor takes tickets from it if they would have to wait.
    """

    def __init__(
        self,
        backends: Sequence[Backend],
        seals: Sequence[Seal],
        registrations: Sequence[Registration],
        queue: Queue,
        ahead: Queue | None,
        reports: report.Writer,
        limits: Limits,
        clock: Clock,
    ) -> None:
        self._exchange = Exchange(backends, lambda index, count: reports.write(Settled(index, count)), clock)
        self._prefetch = None if ahead is None else Prefetch(queue, ahead, backends, self._exchange)
        self._backends = backends
        self._seals = seals
        self._registrations = registrations
        self._queue = queue
        self._reports = reports
        self._limits = limits
        self._clock = clock
        self._pid = os.getpid()
        self._done = 0
        self._succeeded = 0
        self._counting = threading.Lock()
        self._stopping = False
        self._waker = Waker(queue.fileno())
        self._loop = EventLoop(self._waker.ring, lambda: os._exit(EX_UNUSABLE))
        self._status = 0
        self._in_run = False
        self._hard_limit = HardLimit()
        self._suspicion = Suspicion()
        self._repaired = 0.0  # when the process state was last checked
        signal.signal(signal.SIGTERM, self._stop)
        # Created after all signal handlers are installed, because it restores the present ones.
        pipes = (queue.fileno(), reports.fileno(), *self._waker.descriptors, *(ahead.descriptors if ahead else ()))
        self._process_state = ProcessState(pipes)

    def _stop(self, *_: object) -> None:
        """End the worker after its current task."""
        self._stopping = True

    def run(self) -> int:
        """Take and run tickets, and return the exit status."""
        while not self._stopping and (item := self._next()) is not None:
            self._execute(*item)
            if self._limits.are_reached(self._done):
                break
        self._drain()
        # The supervisor limits the time of what follows. Without a supervisor, the kernel limits it, a little later.
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, LATER * self._limits.ending + 1)
        self._rest()
        self._reports.write(Leaving())  # what follows also runs the user's code, and may take long
        self._loop.close()
        return self._status

    def _next(self) -> tuple[int, Ticket] | None:
        while not self._stopping and self._reports.heard:  # without a supervisor, no further task is begun
            if self._loop.used:
                self._loop.settle()
                if len(self._loop) >= self._limits.concurrency:
                    self._wait_for_ends(self._limits.concurrency - 1)
                    continue
            try:
                return self._prefetch.get(singly=len(self._loop) > 0) if self._prefetch else self._queue.get()
            except BlockingIOError:
                self._wait_for_tickets()
        return None

    def _wait_for_tickets(self) -> None:
        self._loop.leave()
        self._loop.expect(0)
        self._rest()
        if not self._stopping:
            self._waker.wait(or_ticket=True)
        self._loop.come_back()

    def _wait_for_ends(self, most: int) -> None:
        """Wait until at most ``most`` coroutines are running, or until a signal arrives."""
        registration = self._registrations[0]
        self._loop.leave()
        self._rest()
        registration.running("", self._clock())  # so that the supervisor takes back what is claimed ahead
        if not self._loop.expect(most):
            self._waker.wait()
        registration.running("", 0.0)
        self._loop.come_back()

    def _drain(self) -> None:
        """Wait until no coroutine is running."""
        while len(self._loop):
            self._wait_for_ends(0)

    def _execute(self, index: int, ticket: Ticket) -> None:
        registration = self._registrations[index]
        started = self._clock()
        registration.running(ticket.ref, started)
        claim = self._claim(index, ticket.ref)
        if isinstance(claim, Claim) and claim.crashes:
            self._exchange.settle()  # if it crashes again, the runs that have ended here must not be affected
        if isinstance(claim, Claim) and claim.crashes < MAX_CRASHES - 1:
            self._run(index, claim, self._prepare(index, claim, started), started)  # the only reference to its objects
            return
        suspect = isinstance(claim, Claim) and claim.crashes == MAX_CRASHES - 1
        if isinstance(claim, Claim) and suspect and len(self._loop):
            # At its next crash it is set aside, so it runs alone: it must not end other runs, nor be blamed for them.
            self._exchange.release(index, [claim])
            registration.running("", 0.0)
            self._drain()
            started = self._clock()
            registration.running(ticket.ref, started)
            claim = self._claim(index, ticket.ref)
        if isinstance(claim, Refusal) and claim.kind in _DOUBTFUL:
            registration.running("", 0.0)
            if self._repair(ticket.ref):
                registration.running(ticket.ref, started)
                claim = self._claim(index, ticket.ref)
        if isinstance(claim, Refusal):
            registration.running("", 0.0)  # before the report, because the supervisor may then check the task again
            if claim.kind is RefusalKind.UNUSABLE:
                self._suspect()
            self._reports.write(Refused(index, ticket.ref, claim.kind, claim.until, claim.detail))
        else:
            self._run(index, claim, self._prepare(index, claim, started), started)  # the only reference to its objects
            if suspect:
                self._drain()

    def _prepare(self, index: int, claim: Claim, started: float) -> tuple[str, dispatch.Call | Outcome | None]:
        """Return the label and the call of a claimed task, or its outcome if it cannot be called.

        Both are empty if its seal is invalid, or if it does not fit into memory. It has then been settled and reported.
        """
        try:
            content = self._seals[index].open(claim.envelope, whole=claim.crashes < MAX_CRASHES)
        except Damaged as error:
            until = self._exchange.end(index, end_of_damaged(claim, error))
            self._registrations[index].running("", 0.0)
            self._reports.write(Refused(index, claim.ref, *refusal_of_damaged(error, until)))
            return "", None
        except MemoryError:  # a new worker may have more
            self._stopping, self._status = True, EX_OSERR
            self._exchange.end(index, End(claim, Release(crashed=True)))
            self._registrations[index].running("", 0.0)
            until = self._clock() + _BEFORE_OTHERS
            self._reports.write(Refused(index, claim.ref, RefusalKind.UNUSABLE, until, lack_of_memory(claim)))
            return "", None
        return codec.task_label(content.vars), dispatch.prepare(claim, content, started)

    def _claim(self, index: int, ref: str) -> Claim | Refusal:
        if self._prefetch is not None and (claimed := self._prefetch.claimed(index, ref)) is not None:
            return claimed
        try:
            return self._exchange.claim(index, (ref,))[0]
        except SpoolerUnusable as error:  # another process may be able to, so this one is replaced
            self._stopping, self._status = True, EX_OSERR
            return Refusal(RefusalKind.UNUSABLE, self._clock() + _BEFORE_OTHERS, str(error))

    def _run(
        self, index: int, claim: Claim, prepared: tuple[str, dispatch.Call | Outcome | None], started: float
    ) -> None:
        label, call = prepared
        del prepared
        if not isinstance(call, dispatch.Call):
            self._finish(index, claim, label, call, started)
            return
        options = call.options
        timeout = options.timeout
        # Before the beginning is reported, because it may take long and must not reduce the time limit.
        if self._loop.used:
            self._loop.leave()
        hard = None if timeout is None else self._start_limit(index, claim, options, timeout, started)
        connections.close_old()
        points.reach("run.begin")
        self._in_run = True
        running.set((claim, label))
        try:
            # The task's objects are deleted in here, because their ``__del__`` is part of the run.
            if timeout is None:
                try:
                    ended = dispatch.run(call)
                finally:
                    del call
            else:
                with limit(timeout):
                    try:
                        ended = dispatch.run(call)
                    finally:
                        del call
        except BaseException as error:  # noqa: BLE001  whatever a task raises, sys.exit() included, is its failure
            ended = dispatch.raised(error)
            # An interrupted run may leave any state, and leaks remain, so a new process takes over.
            self._stopping |= ended.verdict is Verdict.TIMEOUT or _has_no_descriptor_left(error)
        running.set(None)
        self._in_run = False
        if self._loop.used:
            self._loop.come_back()
        if isinstance(ended, dispatch.Ending):
            self._end_limit(index, claim, timeout, hard)
            outcome = dispatch.conclude(options, claim, ended, self._clock())
            self._finish(index, claim, label, outcome, started)
            connections.close_old()  # after the end is settled, which a server that does not answer must not prevent
        else:

            def done(ending: dispatch.Ending) -> None:
                outcome = dispatch.conclude(options, claim, ending, self._clock())
                self._finish(index, claim, label, outcome, started, shown=False)

            if timeout is None:
                self._reports.write(Begun(index, claim.ref, started))
            over = None if timeout is None else lambda: self._end_limit(index, claim, timeout, hard)
            self._loop.start(ended.coroutine, timeout, done, over, (claim, label))
            self._registrations[index].running("", 0.0)  # its start has been reported

    def _start_limit(self, index: int, claim: Claim, options: TaskOptions, timeout: float, started: float) -> Any:
        """Start the time limit of a run. Return what ends the kernel's part of it."""
        self._reports.write(Begun(index, claim.ref, started, timeout, dispatch.delay_after(options, claim)))
        return self._hard_limit.start(timeout + KILL_AFTER + self._limits.ending)  # later than the supervisor's

    def _end_limit(self, index: int, claim: Claim, timeout: float | None, hard: Any) -> None:
        """End the time limit of a run that has returned. Settling it may take long if a server does not answer."""
        if timeout is not None:
            self._reports.write(Over(index, claim.ref))
            self._hard_limit.stop(hard)

    def _finish(
        self, index: int, claim: Claim, label: str, outcome: Outcome | None, started: float, *, shown: bool = True
    ) -> None:
        """Settle and report a run.

        :param shown: whether the registration shows this run. When a coroutine ends, it may show another run.
        """
        if outcome is None:  # it is settled already
            return
        points.reach("run.end")
        ended = self._clock()
        failed = outcome.verdict not in SUCCEEDED
        late = ended - started >= _REPAIR_AFTER or not 0.0 <= ended - self._repaired < _REPAIR_EVERY
        if (failed or late or self._process_state.differ()) and not self._in_run:
            self._repair(claim.id)
            self._repaired = ended
        try:
            self._process_state.restore()
        except OSError:
            os._exit(EX_LOST)
        record = Record(
            claim.id,
            label,
            outcome.verdict,
            claim.attempts - (failed and not outcome.begun),
            started,
            max(ended - started, 0.0),
            self._pid,
            outcome.error,
        )
        with self._counting:
            self._done += 1
            if failed:
                self._suspect()
            else:
                self._succeeded += 1
        end, until = End(claim, outcome.disposition, record), None
        deferred = self._exchange.defers[index] and isinstance(outcome.disposition, Ack)
        if not deferred:
            try:
                until = self._exchange.end(index, end)
            except ClaimLost:
                # No descriptor here can be trusted, so nothing is reported. Another worker may have the task by now.
                os._exit(EX_LOST)
        if shown:  # before the report; otherwise a kill in between would count as a crash of a finished task
            self._registrations[index].running("", 0.0)
        fence = claim.fence if deferred else 0
        if not self._reports.write(Ended(index, claim.ref, until, record, fence=fence)):
            keep_end(self._backends[index], record, until)
        if deferred:  # after the report, because ``Settled`` follows it
            self._exchange.defer(index, end)
        points.reach("reported")

    def _repair(self, id: str) -> bool:
        """Check the parts of the process state that tasks seldom change. Return whether anything was restored.

        A state that cannot be restored ends the worker, and a new one replaces it. This must be called between runs,
        because it could change the settings of a running task.

        :param id: the id of the task that ran last.
        """
        try:
            self._process_state.check_descriptors()
        except OSError:
            os._exit(EX_LOST)
        if any(backend.has_lost_descriptors() for backend in self._backends):
            os._exit(EX_LOST)
        try:
            changed, lost = self._process_state.repair(alone=not len(self._loop))
        except OSError as error:
            self._reports.write(Broken(f"a task changed its user or root directory: {error}"))
            os._exit(EX_UNUSABLE)
        if lost:
            self._give_up(f"a task changed its {' and '.join(lost)}, as was found after {id}")
        elif changed:
            text = "a task changed the %s of worker %d, as was found after %s: put back"
            _log.warning(text, " and ".join(changed), self._pid, printable(id))
        return bool(changed)

    def _suspect(self) -> None:
        """Count a failure. End the worker if it may be the reason why all tasks fail."""
        if self._suspicion.note_failure(self._succeeded):
            self._give_up("everything failed in it lately, and nearly nothing before")

    def _give_up(self, reason: str) -> None:
        """End the worker after its current runs, so that a new one replaces it. The supervisor logs the reason."""
        if not self._stopping:
            self._stopping, self._status = True, EX_UNUSABLE
            self._reports.write(Broken(printable(reason)))
            self._waker.ring()

    def _rest(self) -> None:
        """Settle all ended runs before a wait. If a server refuses for a permanent reason, their tasks run again."""
        try:
            self._exchange.rest()
        except SpoolerUnusable as error:
            self._stopping, self._status = True, EX_OSERR
            _log.error("%s", error)


def _has_no_descriptor_left(error: BaseException) -> bool:
    """Return whether a run failed because this process has too many open files."""
    try:
        return isinstance(error, OSError) and bool(error.errno == errno.EMFILE)
    except BaseException:  # noqa: BLE001  a subclass may compute its attributes
        return False
