"""The workers of a supervisor: a fixed number, replaced when they end and on a reload.

A generation consists of the workers of one import of the application and the queue that they share. A reload starts a
new generation beside the old one. When all new workers have imported the application, the old queue is closed, and its
workers finish their runs and end. If the import fails, the new workers end and the old ones stay.
"""

import logging
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from ..backends.base import Clock
from ..errors import AppError
from .app import changed
from .events import Event
from .patience import Patience, end_child
from .process import Process, Spawner
from .queue import Queue

__all__ = ["Death", "Pool"]

_log = logging.getLogger("unspool")
_MAX_PAUSE = 5.0  # seconds between two forks, if workers die at once
SLOW_IMPORT = 5.0  # seconds after which a running import is logged
_ENDING_BESIDE = 2  # the maximum number of processes, in multiples of the workers, including those that are ending


class Death(NamedTuple):
    """The end of a worker. ``code`` is its exit status, or minus the number of the signal that killed it."""

    process: Process
    code: int
    events: list[Event]
    """The last events that it reported."""
    pause: float | None
    """Seconds until another process replaces it; None if it is not replaced."""

    @property
    def unexpected(self) -> bool:
        """Return whether it ended with an error for a reason that is not logged elsewhere."""
        process = self.process
        return (self.code != 0 or not process.ready) and not process.failure and not process.dismissed


@dataclass(slots=True, eq=False)
class _Generation:
    queue: Queue = field(default_factory=Queue)
    processes: dict[int, Process] = field(default_factory=dict)
    retired: bool = False
    vain_deaths: int = 0
    respawn_at: float | None = None
    slow: bool = False
    """Whether the slow import was logged."""

    def slow_import(self, now: float) -> Process | None:
        """Return a worker whose slow import must be logged; None if there is none, or if it was logged."""
        importing = [] if self.slow or self.retired else [one for one in self.processes.values() if not one.ready]
        return next((one for one in importing if now >= one.slow_at), None)

    @property
    def ready(self) -> bool:
        return bool(self.processes) and all(process.ready for process in self.processes.values())

    @property
    def serving(self) -> int:
        """Return the number of workers that take tasks, now or after their import. Ending workers do not count."""
        return sum(not process.leaving for process in self.processes.values())

    @property
    def pause(self) -> float:
        """Return the seconds until the next attempt, after failed ones."""
        return min(0.05 * 2.0 ** min(self.vain_deaths, 10), _MAX_PAUSE)

    def retire(self) -> None:
        """Let the workers finish their runs and end. Those that are still importing end at once."""
        if not self.retired:
            self.retired = True
            self.queue.close_writer()
            for process in self.processes.values():
                process.dismiss()

    def kill(self) -> None:
        for process in self.processes.values():
            process.kill()


class Pool:
    """Worker processes.

    :param size: the number of workers.
    :param timer: a monotonic timer, for limits and pauses.
    """

    def __init__(self, size: int, spawner: Spawner, timer: Clock = time.monotonic) -> None:
        self._size = size
        self._spawner = spawner
        self._timer = timer
        self._current = _Generation()
        self._generations = [self._current]
        self._imported = False  # whether any worker has imported the application
        self.started = False
        """Whether the first workers have all imported the application."""

    @property
    def queue(self) -> Queue:
        """The queue of the current workers."""
        return self._current.queue

    @property
    def stopping(self) -> bool:
        """Whether no worker takes new tasks."""
        return self._current.retired

    @property
    def _newest(self) -> _Generation:
        return next(one for one in reversed(self._generations) if one is self._current or not one.retired)

    @property
    def empty(self) -> bool:
        """Whether no worker is left."""
        return not any(generation.processes for generation in self._generations)

    def __len__(self) -> int:
        return self._current.serving

    def ready(self) -> list[Process]:
        """Return the workers that take tasks now."""
        return [one for one in self.processes() if one.ready and not (one.leaving or one.stopped)]

    def processes(self) -> Iterator[Process]:
        """Yield all live workers, also those of earlier generations."""
        for generation in self._generations:
            yield from generation.processes.values()

    def start(self) -> None:
        """Fork the first workers."""
        self._fill(self._current)

    def events(self) -> Iterator[Event]:
        """Yield the events that the workers have reported."""
        now = self._timer()
        for process in list(self.processes()):
            yield from process.read(now)

    def reap(self) -> list[Death]:
        """Return the workers that have ended since the last call. The caller closes their processes.

        :raises AppError: if one ended at the start because the application could not be imported.
        """
        deaths = []
        for generation in list(self._generations):
            for process in list(generation.processes.values()):
                code = _exit_code(process)
                if code is not None:
                    del generation.processes[process.pid]
                    now = self._timer()
                    events = process.read(now)
                    process.note_death(code, now)
                    deaths.append(Death(process, code, events, self._note_death(generation, process, code)))
            if generation.retired and not generation.processes and generation is not self._current:
                generation.queue.close_reader()
                self._generations.remove(generation)
        return deaths

    def turn(self, *, away: bool = False) -> None:
        """Replace processes that have ended, kill overdue ones, and complete a reload.

        :param away: whether a spooler is unreachable, for which workers may be waiting.
        :raises AppError: as for ``reap``.
        """
        now = self._timer()
        for generation in self._generations:
            for process in generation.processes.values():
                process.watch(now, to_end=generation.retired, away=away)
            if (slow := generation.slow_import(now)) is not None:
                generation.slow = True
                text = "worker %d is still importing app %s after %g s; does it start a server, or wait for something?"
                _log.warning(text, slow.pid, self._spawner.app, SLOW_IMPORT)
            due = generation.respawn_at is None or generation.respawn_at <= now
            if due and not generation.retired and generation.serving < self._size:
                self._fill(generation)
        newest = self._newest
        if newest.ready and not newest.retired:
            self.started = True
            if newest is not self._current:
                self._current.retire()
                self._current = newest
                _log.info("reloaded")

    def next_turn(self) -> float | None:
        """Return the seconds until ``turn`` has something to do."""
        times = [at for process in self.processes() if (at := process.next_watch()) is not None]
        times += [one.respawn_at for one in self._generations if one.respawn_at is not None and not one.retired]
        for one in self._generations:
            if not (one.slow or one.retired):
                times += [process.slow_at for process in one.processes.values() if not process.ready]
        return min(times) - self._timer() if times else None

    def reload(self) -> bool:
        """Start new workers, also in place of those of an unfinished reload. Return False if that is impossible now."""
        if self.stopping:
            return False
        try:
            fresh = _Generation()
        except OSError as error:
            _log.error("cannot start new workers: %s; the old workers continue", error.strerror)
            return False
        _log.info("reloading" if self._newest is self._current else "reloading, in place of an unfinished reload")
        if self._newest is not self._current:
            self._newest.retire()
        self._generations.append(fresh)
        self._fill(fresh)
        return True

    def reload_if_changed(self) -> None:
        """Reload if a file of the application has changed since its import."""
        for process in self._current.processes.values():
            if any(changed(path) != then for path, then in process.files.items()):
                if self.reload():
                    for other in self._current.processes.values():
                        other.files = {path: changed(path) for path in other.files}
                return

    def retire(self) -> None:
        """Let running tasks end, and start no more."""
        for generation in self._generations:
            generation.retire()

    def kill(self) -> None:
        """Kill all workers."""
        for generation in self._generations:
            generation.kill()

    def close(self, patience: Patience) -> None:
        """Kill all workers, wait for them, and release all resources."""
        self.retire()
        self.kill()
        for generation in self._generations:
            for process in generation.processes.values():
                end_child(process.pid, patience)
                process.kill_children()
                process.close()
            generation.queue.close_reader()

    def close_in_child(self) -> None:
        """In a forked child, close what would keep the pipes of other workers open."""
        for generation in self._generations:
            if not generation.retired:
                generation.queue.close_writer()
            for process in generation.processes.values():
                process.reports.close()
                if process.ahead is not None:
                    process.ahead.close_reader()

    def _fill(self, generation: _Generation) -> None:
        generation.respawn_at = None
        while generation.serving < self._size and len(generation.processes) < _ENDING_BESIDE * self._size:
            try:
                process = self._spawner.spawn(generation.queue)
            except OSError as error:  # too many processes or open files, which may change soon
                generation.vain_deaths += 1
                generation.respawn_at = self._timer() + generation.pause
                why = error.strerror or error
                _log.error("cannot start a worker: %s; trying again in %.1f s", why, generation.pause)
                return
            process.slow_at = self._timer() + SLOW_IMPORT
            generation.processes[process.pid] = process

    def _note_death(self, generation: _Generation, process: Process, code: int) -> float | None:
        """Decide what follows a death.

        Return the seconds until another process replaces it; None if it is not replaced.
        """
        self._imported |= process.ready or any(other.ready for other in self.processes())
        if process.failure and not self._imported and not generation.retired:
            raise process.failure
        if process.failure and generation is not self._current:
            _log_failure(process.failure, "the old workers continue")
            generation.retire()
            generation.kill()
        elif process.failure:
            _log_failure(process.failure, "trying again")
        # Tasks that kill workers are set aside after some crashes, so only workers that die without a task are delayed.
        in_vain = not (process.useful or process.runs()) and (code != 0 or not process.ready)
        generation.vain_deaths = generation.vain_deaths + 1 if in_vain else 0
        pause = generation.pause if generation.vain_deaths > 1 else 0.0
        generation.respawn_at = self._timer() + pause
        return None if generation.retired else pause


def _log_failure(failure: AppError, then: str) -> None:
    _log.error("%s; %s", failure, then, extra={"traceback": failure.traceback})


def _exit_code(process: Process) -> int | None:
    """Return the exit status of a process; None if it is alive. Note whether it was stopped."""
    try:
        found, status = os.waitpid(process.pid, os.WNOHANG | os.WUNTRACED)
    except ChildProcessError:  # other code has reaped it
        return 0
    if found and os.WIFSTOPPED(status):
        process.stopped = os.WSTOPSIG(status)
        return None
    return os.waitstatus_to_exitcode(status) if found else None
