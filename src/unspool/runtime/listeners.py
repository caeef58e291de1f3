"""What a supervisor does at the end of each run: log it, count it, and store it in history."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from ..message import SUCCEEDED, Verdict
from .events import Ended
from .log import log_end
from .pool import Pool
from .recorder import Recorder
from .served import Served

__all__ = ["History", "Listener", "Log", "Statistics"]

_log = logging.getLogger("unspool")


class Listener(Protocol):
    """An object that is called for each end of a run.

    If ``line`` of the event is empty, the supervisor itself has noted the end: no backend has recorded it.
    """

    def ended(self, event: Ended) -> None:
        """Note the end of a run."""


class Log:
    """Writes a log line when the application is imported, and for each end of a run."""

    def __init__(self, app: str, processes: int, spoolers: Sequence[Served], pool: Pool) -> None:
        self._app = app
        self._processes = processes
        self._names = [spooler.name for spooler in spoolers]
        self._pool = pool
        self._started = False

    def started(self) -> None:
        """Log once that the application is imported."""
        if not self._started:
            self._started = True
            names = ", ".join(self._names)
            _log.info("started: app %s, workers: %d, spoolers: %s", self._app, self._processes, names)
            if not all(process.tasks for process in self._pool.processes()):
                text = "app %s defines no task: is it the right module, and does it import those of its tasks?"
                _log.warning(text, self._app)

    def ended(self, event: Ended) -> None:
        self.started()
        log_end(self._names[event.spooler], event.record, event.until)


@dataclass(slots=True)
class Statistics:
    """Counts since the start, for progress displays."""

    done: int = 0
    failed: int = 0
    dead: int = 0
    backlog: int = 0
    """The tasks that are ready now."""
    workers: int = 0
    """The workers now."""

    def ended(self, event: Ended) -> None:
        verdict = event.record.verdict
        if verdict in SUCCEEDED:
            self.done += 1
            return
        self.done += verdict != Verdict.CORRUPT  # a corrupt task is never run
        self.failed += 1
        self.dead += verdict in (Verdict.DEAD, Verdict.CORRUPT)


class History:
    """Passes each end to the recorder, unless the backend has recorded it."""

    def __init__(self, spoolers: Sequence[Served], recorder: Recorder) -> None:
        self._records = [spooler.records for spooler in spoolers]
        self._recorder = recorder

    def ended(self, event: Ended) -> None:
        if not event.line:
            self._recorder.put(event.spooler, event.record)
        elif not self._records[event.spooler]:
            self._recorder.put_line(event.spooler, event.line)
