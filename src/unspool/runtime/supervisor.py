"""The parent process: asks the feeds what is due, fills the queue, hears the workers, keeps them alive.

It imports no user code, runs no task and holds no lock on one, so it can die without losing anything: its workers then
see the end of their queue and stop, and another supervisor finds every task where it was.

One thread, one loop: reap, read reports, refresh the feeds, fill the queue, wait for the next event or time.
"""

import contextlib
import logging
import os
import selectors
import signal
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..backends.base import Backend, Clock, Feed, Ticket
from ..errors import AppError
from ..message import RefusalKind, Verdict
from . import report
from .app import changed
from .log import log_end
from .pool import Generation, Process, Spawner
from .recorder import Recorder
from .worker import Limits

__all__ = ["Options", "Stats", "Supervisor"]

_log = logging.getLogger("unspool")
_NAP = 0.002  # seconds of sleep where workers have enough to do: many reports are then read at once
_NAP_ABOVE = 64  # tickets that nobody has taken yet
_KILL_AFTER = 2.0  # seconds past its time limit after which a run that cannot be interrupted is killed
_LONG_LIFE = 5.0  # seconds after which a worker's death is not part of a series
_MAX_PAUSE = 5.0  # seconds between two forks of workers that die at once
_LONGEST_WAIT = 60.0  # seconds until a timer is looked at again, lest a clock that was set makes it late
_RELOAD_EVERY = 0.5
_PROGRESS_EVERY = 0.2


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
    """What has happened since the start, for whoever shows progress."""

    done: int = 0
    failed: int = 0
    dead: int = 0
    backlog: int = 0
    workers: int = 0


class Supervisor:
    """Runs the tasks of some spoolers.

    :param app: ``module``, ``module:attr`` or ``path/to/file.py``.
    :param progress: called a few times a second while there is work.
    """

    def __init__(
        self,
        app: str,
        backends: Sequence[Backend],
        options: Options,
        *,
        clock: Clock = time.time,
        progress: Callable[[Stats], None] | None = None,
    ) -> None:
        self._app = app
        self._backends = backends
        self._options = options
        self._clock = clock
        self._progress = progress
        self._stats = Stats()
        self._generation = Generation()
        self._generations = [self._generation]
        self._last_rank = -1
        self._stopping = False
        self._started = False
        self._complained: set[str] = set()
        self._next_progress = 0.0
        self._next_reload = 0.0
        self._lost: set[int] = set()

    def run(self) -> int:
        """Runs until it is told to stop, or with ``burst`` until nothing is ready.

        :raises AppError: if the application cannot be imported at the start.
        :raises SpoolerUnusable: if a spooler cannot be used.
        """
        self._open()
        try:
            self._begin()
            while self._step():
                self._wait()
        finally:
            self._close()
        return 0

    # --- the loop

    def _step(self) -> bool:
        """One turn; False when all is done."""
        self._hear()
        self._reap()
        self._enforce_deadlines()
        self._replace_dead()
        self._busy = self._refresh()
        self._advance_reload()
        self._fill()
        self._recorder_full = self._recorder.push()
        self._show_progress()
        if self._options.burst and self._started and not self._busy and all(feed.idle for feed in self._feeds):
            self._stop()
        return any(generation.processes for generation in self._generations) or not self._stopping

    def _wait(self) -> None:
        if self._busy:
            timeout: float | None = 0.0
        elif len(self._generation.queue) > _NAP_ABOVE and not self._stopping:
            time.sleep(_NAP)
            timeout = 0.0
        else:
            timeout = self._timeout()
        for key, _ in self._selector.select(timeout):
            if key.fileobj is self._bell:
                self._bell.recv(4096)

    def _timeout(self) -> float | None:
        """Seconds until something is due."""
        times = [due for feed in self._feeds if (due := feed.next_due()) is not None and not self._stopping]
        for generation in self._generations:
            times += [at for process in generation.processes.values() for at in process.deadlines.values()]
            if generation.respawn_at is not None:
                times.append(generation.respawn_at)
        if self._options.reload:
            times.append(self._next_reload)
        if self._recorder_full:
            times.append(self._clock() + _NAP)
        return max(0.0, min(min(times) - self._clock(), _LONGEST_WAIT)) if times else None

    # --- start and stop

    def _open(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._bell, self._ringer = socket.socketpair()
        self._bell.setblocking(False)
        self._ringer.setblocking(False)
        self._feeds: list[Feed] = [backend.feed() for backend in self._backends]
        self._presences = [backend.control.enlist("supervisor") for backend in self._backends]
        self._recorder = Recorder(self._backends, self._close_in_child)
        self._spawner = Spawner(self._app, self._backends, self._options.limits, self._clock, self._close_in_child)
        self._selector.register(self._bell, selectors.EVENT_READ)
        self._registered: dict[int, int] = {}
        self._busy = self._recorder_full = False
        self._old_handlers = {
            number: signal.signal(number, self._on_signal)
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT, signal.SIGHUP, signal.SIGCHLD)
        }
        self._signals: list[int] = []
        self._old_wakeup = signal.set_wakeup_fd(self._ringer.fileno(), warn_on_full_buffer=False)

    def _begin(self) -> None:
        for _ in range(self._options.processes):
            self._spawn(self._generation)
        _log.info("started: app %s, %d workers, spoolers %s", self._app, self._options.processes,
                  ", ".join(backend.name for backend in self._backends))  # fmt: skip

    def _close(self) -> None:
        for generation in self._generations:
            generation.kill()
            for process in generation.processes.values():
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(process.pid, 0)
                process.close()
            generation.retire()
            generation.queue.close_reader()
        self._recorder.close()
        signal.set_wakeup_fd(self._old_wakeup)
        for number, handler in self._old_handlers.items():
            signal.signal(number, handler)
        for feed in self._feeds:
            feed.close()
        for presence in self._presences:
            presence.hand_over()
            presence.close()
        self._selector.close()
        self._bell.close()
        self._ringer.close()
        _log.info("stopped: %d tasks run", self._stats.done)

    def _close_in_child(self) -> None:
        """In a fork: closes what would keep the supervisor's pipes and watches alive."""
        self._selector.close()
        self._bell.close()
        self._ringer.close()
        for feed in self._feeds:
            feed.close()
        for presence in self._presences:
            presence.hand_over()
        for generation in self._generations:
            if not generation.retired:
                generation.queue.close_writer()
            for process in generation.processes.values():
                process.reports.close()
        if hasattr(self, "_spawner"):
            self._recorder.detach()

    def _stop(self) -> None:
        """Lets what runs end, and starts no more."""
        if not self._stopping:
            self._stopping = True
            self._recall()
            for generation in self._generations:
                generation.retire()

    def _on_signal(self, number: int, _frame: object) -> None:
        self._signals.append(number)

    def _obey_signals(self) -> None:
        while self._signals:
            number = self._signals.pop(0)
            if number in (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT):
                if self._stopping or number == signal.SIGQUIT:
                    _log.warning("stopping at once")
                    for generation in self._generations:
                        generation.kill()
                else:
                    _log.info("stopping when what runs has ended; again to stop at once")
                self._stop()
            elif number == signal.SIGHUP:
                self._reload()

    # --- workers

    def _spawn(self, generation: Generation) -> None:
        generation.respawn_at = None
        process = self._spawner.spawn(generation)
        self._selector.register(process.reports, selectors.EVENT_READ, process)

    def _reap(self) -> None:
        for generation in list(self._generations):
            for process in list(generation.processes.values()):
                try:
                    pid, status = os.waitpid(process.pid, os.WNOHANG)
                except ChildProcessError:
                    pid, status = process.pid, 0
                if pid:
                    self._bury_process(generation, process, os.waitstatus_to_exitcode(status))
            if generation.retired and not generation.processes and generation is not self._generation:
                generation.queue.close_reader()
                self._generations.remove(generation)

    def _bury_process(self, generation: Generation, process: Process, code: int) -> None:
        self._hear_one(process)  # its last words
        self._selector.unregister(process.reports)
        del generation.processes[process.pid]
        if process.failure:
            self._fail(generation, process)
        elif code != 0:
            self._mourn(process, code)
        if not generation.retired and generation.respawn_at is None:
            lived = self._clock() - process.started
            quick = code != 0 and lived < _LONG_LIFE
            generation.quick_deaths = generation.quick_deaths + 1 if quick else 0
            pause = 0.0 if generation.quick_deaths <= 1 else min(0.05 * 2**generation.quick_deaths, _MAX_PAUSE)
            generation.respawn_at = self._clock() + pause
        process.close()
        self._recall()
        for feed in self._feeds:
            feed.doubt()

    def _mourn(self, process: Process, code: int) -> None:
        """A worker died: says so, and names the task that it was running."""
        how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exited with status {code}"
        verdict = Verdict.TIMEOUT if process.overrun else Verdict.CRASHED
        if process.overrun:
            how = "killed for overrunning the task's time limit"
        running = [(index, presence.ref()) for index, presence in enumerate(process.presences) if presence.ref()]
        if not running:
            _log.error("worker %d %s, running no task", process.pid, how)
        for index, ref in running:
            backend = self._backends[index]
            entry = backend.find(ref)
            task, attempts, id = (entry.task, entry.attempts, entry.id) if entry else ("?", 0, ref)
            log_end(backend.name, [id, task, verdict, attempts, 0.0, 0.0, process.pid, f"the worker was {how}"], None)
            self._stats.failed += 1
            self._recorder.put(
                index, [id, task, verdict, attempts, self._clock(), 0.0, process.pid, f"the worker was {how}"]
            )

    def _fail(self, generation: Generation, process: Process) -> None:
        if not self._started:
            raise AppError(process.failure)
        if generation is not self._generation:
            _log.error("%s; the old workers go on", process.failure)
            generation.retire()
            generation.kill()
        else:
            _log.error("%s; trying again", process.failure)
            generation.quick_deaths += 1

    def _replace_dead(self) -> None:
        now = self._clock()
        for generation in self._generations:
            if generation.respawn_at is not None and generation.respawn_at <= now and not generation.retired:
                for _ in range(self._options.processes - len(generation.processes)):
                    self._spawn(generation)

    def _enforce_deadlines(self) -> None:
        now = self._clock()
        for generation in self._generations:
            for process in generation.processes.values():
                if process.deadlines and min(process.deadlines.values()) <= now:
                    process.overrun = True
                    process.deadlines.clear()
                    process.kill()

    # --- reload

    def _reload(self) -> None:
        """Fresh workers beside the old ones, which go when the fresh ones have imported the application."""
        if self._stopping or len(self._generations) > 1:
            return
        _log.info("reloading")
        generation = Generation()
        self._generations.append(generation)
        for _ in range(self._options.processes):
            self._spawn(generation)

    def _advance_reload(self) -> None:
        newest = self._generations[-1]
        if newest is not self._generation and newest.processes and newest.ready and not newest.retired:
            self._recall()
            old, self._generation = self._generation, newest
            old.retire()
            _log.info("reloaded")
        self._started = self._started or (bool(newest.processes) and newest.ready)
        if self._options.reload and self._clock() >= self._next_reload:
            self._next_reload = self._clock() + _RELOAD_EVERY
            files = next(iter(self._generation.processes.values())).files if self._generation.processes else {}
            if any(changed(path) != then for path, then in files.items()):
                for process in self._generation.processes.values():
                    process.files = {path: changed(path) for path in process.files}
                self._reload()

    # --- reports

    def _hear(self) -> None:
        self._obey_signals()
        for generation in self._generations:
            for process in generation.processes.values():
                self._hear_one(process)

    def _hear_one(self, process: Process) -> None:
        for event in process.read():
            match event:
                case [report.END, index, ref, until, record]:
                    process.deadlines.pop((index, ref), None)
                    self._feeds[index].settled(ref, until)
                    self._ended(index, record, until)
                case [report.REFUSED, index, ref, kind, until, detail]:
                    self._refused(index, ref, kind, until, detail)
                case [report.BEGIN, index, ref, timeout]:
                    process.deadlines[index, ref] = self._clock() + timeout + _KILL_AFTER

    def _ended(self, index: int, record: list[Any], until: float | None) -> None:
        self._stats.done += 1
        verdict = record[2]
        if verdict not in (Verdict.PROCESSED, Verdict.SKIPPED):
            self._stats.failed += 1
            self._stats.dead += verdict in (Verdict.DEAD, Verdict.CORRUPT)
        log_end(self._backends[index].name, record, until)
        self._recorder.put(index, record)

    def _refused(self, index: int, ref: str, kind: str, until: float | None, detail: str) -> None:
        feed, backend = self._feeds[index], self._backends[index]
        if kind == RefusalKind.BUSY:
            feed.busy(ref)
            return
        feed.settled(ref, until)
        id = f"{backend.name}/{ref}"
        if kind == RefusalKind.CORRUPT:
            self._stats.dead += 1
            record = [id, "?", Verdict.CORRUPT, 0, self._clock(), 0.0, os.getpid(), detail]
            log_end(backend.name, record, None)
            self._recorder.put(index, record)
        elif kind == RefusalKind.UNUSABLE and id not in self._complained and len(self._complained) < 10_000:
            self._complained.add(id)
            _log.warning("task %s is not run: %s", id, detail)

    # --- work

    def _refresh(self) -> bool:
        if self._stopping:
            return False
        more = False
        for index, feed in enumerate(self._feeds):
            more |= feed.refresh()
            self._watch(index, feed)
            if feed.gone != (index in self._lost):
                self._lost ^= {index}
                name = self._backends[index].name
                if feed.gone:
                    _log.error("spooler %s was removed; going on when it is back", name)
                else:
                    _log.info("spooler %s is back", name)
        return more

    def _watch(self, index: int, feed: Feed) -> None:
        """Waits on the feed's descriptor, which changes if it begins anew."""
        fd = feed.fileno()
        known = self._registered.get(index)
        if fd != known:
            if known is not None:
                with contextlib.suppress(KeyError, ValueError, OSError):
                    self._selector.unregister(known)
                del self._registered[index]
            if fd is not None:
                self._selector.register(fd, selectors.EVENT_READ)
                self._registered[index] = fd

    def _fill(self) -> None:
        """Keeps the queue full, in order; takes it back when something more urgent is there."""
        if self._stopping or self._generation.retired:
            return
        queue = self._generation.queue
        waiting = len(queue)
        firsts = [ticket for feed in self._feeds if (ticket := feed.peek()) is not None]
        if waiting and (
            any(ticket.rank < self._last_rank for ticket in firsts) or any(feed.paused for feed in self._feeds)
        ):
            self._recall()
            waiting = 0
        if not waiting:
            self._last_rank = -1
        room = queue.capacity - waiting
        while room > 0:
            share = max(1, room // len(self._feeds))
            tickets = [(index, ticket) for index, feed in enumerate(self._feeds) for ticket in feed.take(share)]
            if not tickets:
                break
            self._last_rank = max(self._last_rank, *(ticket.rank for _, ticket in tickets))
            self._give_back(queue.put(tickets))
            room -= len(tickets)

    def _recall(self) -> None:
        self._give_back(self._generation.queue.recall())

    def _give_back(self, tickets: Sequence[tuple[int, Ticket]]) -> None:
        for index, ticket in tickets:
            self._feeds[index].give_back([ticket])

    def _show_progress(self) -> None:
        if self._progress is None or (now := self._clock()) < self._next_progress:
            return
        self._next_progress = now + _PROGRESS_EVERY
        self._stats.backlog = sum(feed.backlog for feed in self._feeds) + len(self._generation.queue)
        self._stats.workers = len(self._generation.processes)
        self._progress(self._stats)
