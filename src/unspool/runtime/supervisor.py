"""The supervisor: it takes due tasks from the feeds, fills the queue, reads the reports of workers, and replaces them.

It imports no user code, runs no task and holds no lock on a task, so it can die without losing one. Its workers then
see the end of their queue and stop, and another supervisor finds all tasks.

It has one thread with one loop: read reports, reap, refresh the feeds, fill the queue, and wait for the next event or
timer.
"""

import logging
import os
import signal
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from ..backends.base import Backend, Clock
from ..message import Interrupted
from ..printable import counted
from ..seal import Seal
from .clockwatch import ClockWatch
from .crashes import crashes
from .events import Ended, Event, Refused
from .hopper import NAP
from .limits import Limits
from .listeners import History, Listener, Log, Statistics
from .patience import Patience
from .pool import Death, Pool
from .process import Spawner
from .progress import Progress
from .recorder import Recorder
from .served import Served
from .sidecar import Sidecar
from .signals import Signals
from .terminal import Terminal
from .tickets import Tickets
from .timers import Interval, Timers
from .watches import Watches

__all__ = ["Options", "Supervisor"]

_log = logging.getLogger("unspool")
_RELOAD_EVERY = 0.5  # seconds
_STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT)
_LAST_WAIT = 5.0  # seconds for history and forwarding after all workers have ended


@dataclass(frozen=True, slots=True)
class Options:
    """The options of a supervisor.

    :param processes: the number of workers.
    :param burst: whether to stop when no task is ready.
    :param reload: whether to replace the workers when a file of the application changes.
    """

    processes: int = 1
    burst: bool = False
    reload: bool = False
    limits: Limits = field(default_factory=Limits)


class Supervisor:
    """Runs the tasks of some spoolers.

    :param app: ``module``, ``module:attr`` or ``path/to/file.py``.
    :param progress: called a few times a second while there is work.
    :param sidecar: a process to keep alive beside the workers.
    :raises SpoolerUnusable: if a spooler cannot be used.
    """

    def __init__(
        self,
        app: str,
        backends: Sequence[Backend],
        options: Options,
        *,
        seal: Callable[[Backend], Seal],
        clock: Clock = time.time,
        progress: Callable[[Statistics], None] | None = None,
        sidecar: Sidecar | None = None,
    ) -> None:
        self._app = app
        self._backends = backends
        self._options = options
        self._clock = clock
        self._sidecar = sidecar
        self._watches = Watches()
        self._spoolers = [Served(backend, self._watches) for backend in backends]
        self._signals = Signals(signal.SIGTSTP)
        self._terminal = Terminal()
        self._pool = Pool(
            options.processes,
            Spawner(app, backends, [*map(seal, backends)], options.limits, clock, self._close_in_child),
        )
        self._recorder: Recorder | None = None
        self._stats = Statistics()
        self._log = Log(app, options.processes, self._spoolers, self._pool)
        self._listeners: list[Listener] = [self._log, self._stats]
        self._tickets = Tickets(self._spoolers, self._pool, self._stats, clock)
        self._clock_watch = ClockWatch(clock)
        self._progress = Progress(progress, self._stats, self._tickets, self._pool)
        self._reloading = Interval(_RELOAD_EVERY)
        self._timers = self._all_timers()
        self._forced = False

    def _all_timers(self) -> Timers:
        timers = Timers()
        timers.add(self._pool.next_turn)
        timers.add(lambda: self._terminal.wait(self._pool.processes()))
        timers.add(self._tickets.wait)
        timers.add(self._until_due)
        if self._options.reload:
            timers.add(lambda: None if self._pool.stopping else self._reloading.left())
        timers.add(self._progress.wait)
        if self._sidecar is not None:
            timers.add(self._sidecar.wait)
        return timers

    def run(self) -> Statistics:
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
            self._progress.show()
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
        if self._tickets.exhausted:  # a worker may be waiting for a ticket, so do this first
            if self._more:
                self._tickets.fill()
            self._refresh()
            self._tickets.fill()
        self._handle_signals(self._signals.take())
        self._handle_events(self._pool.events())
        self._handle_deaths(self._pool.reap())
        if self._terminal.suspended:
            self._suspend()
        self._terminal.turn(self._pool.processes())
        self._renew_workers()
        self._clock_watch.look()
        if self._sidecar is not None and not self._pool.stopping:
            self._sidecar.turn(self._close_in_child)
        self._tickets.recall_from_slow()
        self._refresh()
        self._tickets.fill()
        if self._recorder is not None:
            self._recorder.push()
        self._progress.turn()
        if self._options.burst and self._pool.started and not self._more and self._is_idle():
            self._stop()

    def _wait(self) -> None:
        if not self._pool.stopping and self._tickets.plenty:
            time.sleep(NAP)
        reports = [process.reports for process in self._pool.processes()]
        for reader in reports:
            if reader.ended:
                self._watches.discard(reader.fileno())  # otherwise it would stay readable forever
            else:
                self._watches.add(reader.fileno())
        if self._signals.fileno() in self._watches.wait(0.0 if self._more else self._timers.wait()):
            self._signals.drain()

    def _until_due(self) -> float | None:
        """Return the seconds until a feed must be refreshed although nothing happens."""
        if self._pool.stopping:
            return None
        times = [due for spooler in self._spoolers if (due := spooler.state.next_due) is not None]
        return min(times) - self._clock() if times else None

    def _is_idle(self) -> bool:
        """Return whether no task is ready or running. After the death of a worker, the feeds do not know all current
        runs, so the workers are asked too.
        """
        running = any(process.runs() for process in self._pool.processes())
        return all(spooler.state.idle for spooler in self._spoolers) and not running

    # --- start and stop

    def _start(self) -> None:
        self._recorder = Recorder(self._backends, self._close_in_child)
        self._timers.add(self._recorder.next_push)
        self._listeners.append(History(self._spoolers, self._recorder))
        self._watches.add(self._signals.fileno())
        self._pool.start()

    def _stop(self) -> None:
        """Let running tasks end, and start no more."""
        if not self._pool.stopping:
            self._tickets.give_back(self._pool.queue.recall())
            self._pool.retire()
            self._tickets.recall_ahead()
            self._mark_interrupted()  # a service manager may kill this process before the runs end

    def _mark_interrupted(self) -> None:
        """Mark the current runs, so that a forced stop does not count as their crash."""
        for process in self._pool.processes():
            for index, ref in process.runs():
                self._spoolers[index].backend.mark(ref, Interrupted())

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
        """In a forked child, close what would keep the supervisor's pipes, watches and locks alive."""
        self._watches.close()
        self._signals.close()
        self._pool.close_in_child()
        for spooler in self._spoolers:
            spooler.close_in_child()
        if self._sidecar is not None:
            self._sidecar.detach()
        if self._recorder is not None:
            self._recorder.detach()

    def _handle_signals(self, numbers: Iterable[int]) -> None:
        for number in numbers:
            if number == signal.SIGHUP:
                self._pool.reload()
            elif number == signal.SIGTSTP:
                self._suspend()
            elif self._pool.stopping or number == signal.SIGQUIT:
                _log.warning("stopping at once")
                self._stop()
                self._mark_interrupted()
                self._forced = True
                self._pool.kill()
            else:
                self._stop()
                _log.info("stopping after the running tasks; signal again to stop at once")

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
            self._log.started()
        if self._pool.queue is not queue:  # a reload is complete: the new workers get the remaining tickets
            self._tickets.give_back(queue.recall())
        if self._options.reload and self._reloading.begin():
            self._pool.reload_if_changed()

    def _handle_deaths(self, deaths: Sequence[Death]) -> None:
        for death in deaths:
            self._handle_events(death.events)
            for index, ended in death.process.unsettled.items():
                self._spoolers[index].settle(ended)
            refs = death.process.runs()
            self._tickets.give_back(death.process.recall())
            if refs or death.unexpected:
                death.process.kill_children()
                for event in crashes(death, refs, self._spoolers, self._clock, forced=self._forced):
                    self._notify(event)
            self._watches.discard(death.process.reports.fileno())
            death.process.close()
        if deaths:
            self._tickets.give_back(self._pool.queue.recall())
            for spooler in self._spoolers:
                spooler.recheck()

    # --- reports

    def _handle_events(self, events: Iterable[Event]) -> None:
        for event in events:
            if isinstance(event, Ended):
                self._spoolers[event.spooler].done(event.ref, event.until)
                self._notify(event)
            elif isinstance(event, Refused):
                corrupt = self._spoolers[event.spooler].note_refusal(event, self._clock())
                if corrupt is not None:
                    self._notify(Ended(event.spooler, event.ref, None, corrupt))

    def _notify(self, event: Ended) -> None:
        for listener in self._listeners:
            listener.ended(event)

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
                self._tickets.recall()
            spooler.note_pause()
