"""The parent process: asks the feeds for due tasks, fills the queue, reads the workers' reports, keeps them alive.

It imports no user code, runs no task and holds no lock on one, so it can die without losing a task. Its workers then
see the end of their queue and stop, and another supervisor finds every task where it was.

One thread, one loop: read reports, reap, refresh the feeds, fill the queue, wait for the next event or time.
"""

import logging
import os
import signal
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from ..backends.base import Backend, Clock, Ticket
from ..errors import SpoolerUnusable
from ..message import SUCCEEDED, Record, Verdict
from ..printable import counted
from .events import Ended, Event, Refused
from .hopper import NAP, SLOW, Hopper, is_slow
from .log import log_end
from .patience import Patience
from .pool import Death, Pool
from .process import Spawner
from .recorder import Recorder
from .served import Served
from .sidecar import Sidecar
from .signals import Signals
from .terminal import Terminal
from .watches import Watches
from .worker import Limits

__all__ = ["Options", "Stats", "Supervisor"]

_log = logging.getLogger("unspool")
_LONGEST = 3600.0  # seconds of waiting; what the kernel takes has a limit, and periods may be longer
_RELOAD_EVERY = 0.5
_CLOCK_SET = 10.0  # seconds by which a clock may differ from the timer without having been set
_PROGRESS_EVERY = 0.2
_STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT)
_LAST_WAIT = 5.0  # seconds for history and forwarding after all workers have ended


@dataclass(frozen=True, slots=True)
class Options:
    """How a supervisor works.

    :param processes: workers.
    :param burst: stop when nothing is ready.
    :param reload: fresh workers when a file of the application changes.
    """

    processes: int = 1
    burst: bool = False
    reload: bool = False
    limits: Limits = field(default_factory=Limits)


@dataclass(slots=True)
class Stats:
    """The events since the start, for progress displays."""

    done: int = 0
    failed: int = 0
    dead: int = 0
    backlog: int = 0
    workers: int = 0


class Supervisor:
    """Runs the tasks of some spoolers.

    :param app: ``module``, ``module:attr`` or ``path/to/file.py``.
    :param progress: called a few times a second while there is work.
    :param sidecar: a process that is kept alive beside the workers.
    :raises SpoolerUnusable: if a spooler cannot be used.
    """

    def __init__(
        self,
        app: str,
        backends: Sequence[Backend],
        options: Options,
        *,
        clock: Clock = time.time,
        progress: Callable[[Stats], None] | None = None,
        sidecar: Sidecar | None = None,
    ) -> None:
        self._sidecar = sidecar
        self._app = app
        self._backends = backends
        self._options = options
        self._clock = clock
        self._progress = progress
        self._stats = Stats()
        self._watches = Watches()
        self._spoolers = [Served(backend, self._watches) for backend in backends]
        self._signals = Signals(signal.SIGTSTP)
        self._terminal = Terminal()
        self._pool = Pool(options.processes, Spawner(app, backends, options.limits, clock, self._close_in_child))
        self._recorder: Recorder | None = None
        self._hopper = Hopper([spooler.withholds for spooler in self._spoolers], time.monotonic())
        self._announced = False
        self._forced = False
        self._shown = 0  # runs that the last progress display included
        self._next_progress = self._next_reload = 0.0  # of the timer, as are all times but those of tasks
        self._clock_ahead = clock() - _since_boot()

    def run(self) -> Stats:
        """Run until a signal stops it, or with ``burst`` until no task is ready.

        :raises AppError: if the application cannot be imported at the start.
        """
        self._signals.catch()
        try:
            self._start()
            self._turn()
            while not (self._pool.stopping and self._pool.empty):
                self._wait()
                self._turn()
            self._next_progress = 0.0
            self._show_progress()
            held_back = self._held_back()
        finally:
            self._close()
        _log.info("stopped: %s run%s", counted(self._stats.done, "task"), held_back)
        return self._stats

    def _held_back(self) -> str:
        """Return a description of the tasks that a pause keeps from running."""
        paused = [spooler for spooler in self._spoolers if spooler.state.paused]
        return "".join(f"; {one.name} is paused, with {one.state.ready} ready" for one in paused)

    # --- the loop

    def _turn(self) -> None:
        if not self._hopper.waiting:  # a worker may be waiting for what has just come: that before all else
            if self._more:
                self._fill()
            self._refresh()
            self._fill()
        self._obey(self._signals.take())
        self._hear(self._pool.events())
        self._bury(self._pool.reap())
        if self._terminal.suspended:
            self._suspend()
        self._terminal.turn(self._pool.processes())
        self._renew_workers()
        self._heed_clock()
        if self._sidecar is not None and not self._pool.stopping:
            self._sidecar.turn(self._close_in_child)
        self._take_back()
        self._refresh()
        self._fill()
        self._show_progress()
        if self._options.burst and self._pool.started and not self._more and self._is_idle():
            self._stop()

    def _wait(self) -> None:
        if not self._pool.stopping and len(self._pool.queue) > self._hopper.enough(len(self._pool)):
            time.sleep(NAP)
        reports = [process.reports for process in self._pool.processes()]
        for reader in reports:
            if reader.ended:
                self._watches.discard(reader.fileno())  # otherwise it would stay readable forever
            else:
                self._watches.add(reader.fileno())
        if self._signals.fileno() in self._watches.wait(0.0 if self._more else self._timeout()):
            self._signals.drain()

    def _timeout(self) -> float | None:
        """Return the seconds until something is due."""
        waits = [self._pool.next_turn(), self._terminal.wait(self._pool.processes())]
        if not self._pool.stopping:
            now = self._clock()
            waits += [due - now for one in self._spoolers if (due := one.state.next_due) is not None]
            waits += [self._next_reload - time.monotonic()] if self._options.reload else []
        waits.append(self._hopper.wait(len(self._pool.queue)))  # the last fill may have put some in
        if any(process.ahead for process in self._pool.processes()):
            waits.append(SLOW)
        if self._recorder and (wait := self._recorder.next_push()) is not None:
            waits.append(wait)
        if self._sidecar and (wait := self._sidecar.wait()) is not None:
            waits.append(wait)
        if self._progress is not None and self._stats.done != self._shown:
            waits.append(self._next_progress - time.monotonic())
        wait = min((wait for wait in waits if wait is not None), default=None)
        return None if wait is None else min(max(0.0, wait), _LONGEST)

    def _is_idle(self) -> bool:
        """Return whether nothing is ready and nothing runs. After a worker's death the feeds do not know all that
        others still run, but each worker says what it does, and reports once it has ended that."""
        running = any(process.runs() for process in self._pool.processes())
        return all(spooler.state.idle for spooler in self._spoolers) and not running

    def _heed_clock(self) -> None:
        """Says so when the clock was set: due times are its times. The feeds look again by themselves."""
        ahead = self._clock() - _since_boot()
        moved, self._clock_ahead = ahead - self._clock_ahead, ahead
        if abs(moved) > _CLOCK_SET:
            effect = "what was deferred is due that much sooner"
            if moved < 0:
                effect = "what was sent before is due that much later; unspool retry makes a task due now"
            way = "forward" if moved > 0 else "back"
            _log.warning("the clock was set %s by %.0f s: %s", way, abs(moved), effect)

    # --- start and stop

    def _start(self) -> None:
        self._recorder = Recorder(self._backends, self._close_in_child)
        self._watches.add(self._signals.fileno())
        self._pool.start()

    def _stop(self) -> None:
        """Let running tasks end, and start no more."""
        if not self._pool.stopping:
            self._give_back(self._pool.queue.recall())
            self._pool.retire()
            self._take_back(all=True)
            self._excuse()  # the process that asked for the stop may kill this one before the end

    def _excuse(self) -> None:
        """What is running now may be cut short by order, which must not count against it."""
        for process in self._pool.processes():
            for index, ref in process.runs():
                self._spoolers[index].backend.excuse(ref)

    def _close(self) -> None:
        self._terminal.take_back()
        patience = Patience(_LAST_WAIT, self._is_hurried)
        self._pool.close(patience)
        if self._sidecar is not None:
            self._sidecar.close(patience)
        if self._recorder is not None:
            self._recorder.finish(patience)
        for spooler in self._spoolers:
            spooler.close(patience)
        if self._recorder is not None:
            self._recorder.close(patience)
        self._signals.release()
        self._watches.close()

    def _is_hurried(self) -> bool:
        """Return whether the supervisor was told to stop at once."""
        self._forced |= any(number in _STOPS for number in self._signals.take())
        return self._forced

    def _close_in_child(self) -> None:
        """In a fork: closes what would keep the supervisor's pipes, watches and locks alive."""
        self._watches.close()
        self._signals.close()
        self._pool.close_in_child()
        for spooler in self._spoolers:
            spooler.close_in_child()
        if self._sidecar is not None:
            self._sidecar.detach()
        if self._recorder is not None:
            self._recorder.detach()

    def _obey(self, numbers: Iterable[int]) -> None:
        for number in numbers:
            if number == signal.SIGHUP:
                self._pool.reload()
            elif number == signal.SIGTSTP:
                self._suspend()
            elif self._pool.stopping or number == signal.SIGQUIT:
                _log.warning("stopping at once")
                self._stop()
                self._excuse()
                self._forced = True
                self._pool.kill()
            else:
                self._stop()
                _log.info("stopping when what runs has ended; again to stop at once")

    def _suspend(self) -> None:
        """Stop this process and all workers, as Ctrl-Z requests, until this process is continued."""
        self._terminal.take_back()
        for process in self._pool.processes():
            process.stop()
        os.kill(os.getpid(), signal.SIGSTOP)
        for process in self._pool.processes():
            process.go_on()

    # --- workers

    def _renew_workers(self) -> None:
        queue = self._pool.queue
        self._pool.turn(away=not all(spooler.state.available for spooler in self._spoolers))
        if self._pool.started:
            self._announce()
        if self._pool.queue is not queue:  # a reload is complete: what the old have not begun is for the new
            self._give_back(queue.recall())
        if self._options.reload and time.monotonic() >= self._next_reload:
            self._next_reload = time.monotonic() + _RELOAD_EVERY
            self._pool.reload_if_changed()

    def _bury(self, deaths: Sequence[Death]) -> None:
        for death in deaths:
            self._hear(death.events)
            refs = death.process.runs()
            self._give_back(death.process.recall())
            if refs or death.unexpected:
                death.process.kill_children()
                self._mourn(death, refs)
            self._watches.discard(death.process.reports.fileno())
            death.process.close()
        if deaths:
            self._give_back(self._pool.queue.recall())
            for spooler in self._spoolers:
                spooler.recheck()

    def _mourn(self, death: Death, refs: Iterable[tuple[int, str]]) -> None:
        """A worker died: says so, and names the tasks that it was running."""
        process = death.process
        how = process.end_of(death.code)
        how = "was stopped at once, as asked" if self._forced and death.code == -signal.SIGKILL else how
        if not refs:
            doing = "; it was running no task" if process.ready else " while it imported the application"
            again = f"; trying again in {death.pause:.1f} s" if death.pause else ""
            _log.error("worker %d %s%s%s", process.pid, how, doing, again)
        for index, ref in sorted(refs):
            try:
                crash = self._spoolers[index].note_crash(index, ref, process, how, self._clock())
            except SpoolerUnusable as error:
                text = "worker %d %s while it ran %s, of which no more can be told: %s"
                _log.error(text, process.pid, how, ref, error)
                continue
            if crash is not None:
                self._failed(index, *crash)

    # --- reports

    def _hear(self, events: Iterable[Event]) -> None:
        for event in events:
            if isinstance(event, Ended):
                index, ref, until, record, line = event
                spooler = self._spoolers[index]
                spooler.done(ref, until)
                self._ended(index, record, until)
                if self._recorder is not None and not spooler.records:
                    self._recorder.put_line(index, line)
            elif isinstance(event, Refused):
                corrupt = self._spoolers[event.spooler].note_refusal(event, self._clock())
                if corrupt is not None:
                    self._failed(event.spooler, corrupt, None)

    def _announce(self) -> None:
        """Log once that the application was imported, before the end of the first run is logged."""
        if not self._announced:
            self._announced = True
            names = ", ".join(spooler.name for spooler in self._spoolers)
            _log.info("started: app %s, workers: %d, spoolers: %s", self._app, self._options.processes, names)
            if not all(process.tasks for process in self._pool.processes()):
                _log.warning(
                    "app %s defines no task: is it the right module, and does it import those of its tasks?", self._app
                )

    def _failed(self, index: int, record: Record, until: float | None) -> None:
        """Log and record an end that no worker has reported and no backend recorded."""
        self._ended(index, record, until)
        if self._recorder is not None:
            self._recorder.put(index, record)

    def _ended(self, index: int, record: Record, until: float | None) -> None:
        self._announce()
        self._stats.done += record.verdict != Verdict.CORRUPT  # a corrupt task is never run
        if record.verdict not in SUCCEEDED:
            self._stats.failed += 1
            self._stats.dead += record.verdict in (Verdict.DEAD, Verdict.CORRUPT)
        log_end(self._spoolers[index].name, record, until)

    # --- work

    @property
    def _more(self) -> bool:
        """Whether a spooler must be refreshed at once."""
        return not self._pool.stopping and any(spooler.state.more for spooler in self._spoolers)

    def _refresh(self) -> None:
        """Process the changes of all spoolers."""
        if self._pool.stopping:
            return
        for spooler in self._spoolers:
            spooler.refresh()
            if spooler.note_absence():
                self._pool.reload()
            if spooler.pausing:  # before it is logged
                self._give_back(self._pool.queue.recall())
                self._take_back(all=True)
            spooler.note_pause()

    def _fill(self) -> None:
        """Keep the queue filled in order. Take its tickets back for a more urgent task, or when a pause begins."""
        if self._pool.stopping:
            return
        queue, hopper = self._pool.queue, self._hopper
        states = [spooler.state for spooler in self._spoolers]
        waiting = len(queue)
        now = time.monotonic()
        recall = hopper.count(
            waiting,
            self._stats.done,
            now,
            ranks=[state.head.rank for state in states if state.head is not None],
            paused=waiting > 0 and any(state.paused for state in states),
            workers=len(self._pool),
            capacity=queue.capacity,
        )
        if recall:
            self._give_back(queue.recall())
            self._take_back(all=True)
            waiting = 0
        ready = self._pool.ready()
        if not ready:  # otherwise the spoolers that withhold would get no share until then
            return
        idle = 0
        if hopper.withholds:
            hopper.note_done(self._stats.done, now)
            idle = sum(not process.shown() for process in ready)
        while True:
            shares = hopper.shares(waiting, idle)
            tickets = [
                (index, ticket)
                for index, spooler in enumerate(self._spoolers)
                if shares[index] > 0
                for ticket in spooler.take(shares[index])
            ]
            if not tickets:
                break
            hopper.note_taken(ticket.rank for _, ticket in tickets)
            self._give_back(queue.put(tickets))
            waiting += len(tickets)

    def _take_back(self, *, all: bool = False) -> None:
        """What workers have claimed ahead, where a run before it takes long."""
        now = self._clock()
        for process in self._pool.processes():
            if process.ahead and (
                all or is_slow((registration.since() for registration in process.registrations), now)
            ):
                self._give_back(process.recall())

    def _give_back(self, tickets: Iterable[tuple[int, Ticket]]) -> None:
        for index, ticket in tickets:
            self._spoolers[index].release([ticket])

    def _show_progress(self) -> None:
        if self._recorder is not None:
            self._recorder.push()
        if self._progress is None or (now := time.monotonic()) < self._next_progress:
            return
        self._next_progress = now + _PROGRESS_EVERY
        self._shown = self._stats.done
        self._stats.backlog = sum(spooler.state.ready for spooler in self._spoolers) + len(self._pool.queue)
        self._stats.workers = len(self._pool)
        self._progress(self._stats)


def _since_boot() -> float:
    """Return the seconds since the boot, including suspended time."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))
