"""A spooler as its supervisor sees it."""

import logging
import os
from collections.abc import Iterable

from .. import inspection
from ..backends.base import Backend, FeedState, Ticket
from ..errors import SpoolerUnusable, TaskTimeout
from ..message import NOTHING, Ack, Claim, End, Record, RefusalKind, Verdict
from ..printable import printable
from .events import Ended, Refused
from .patience import Patience
from .process import Process
from .timelimit import limit
from .watches import Watches

__all__ = ["Served"]

_log = logging.getLogger("unspool")
_COMPLAINTS = 10_000
_ANSWER = 1.0  # seconds that a server may take to settle the runs of a dead worker
_LEAVE = 0.5  # the minimum of seconds for closing a spooler


class Served:
    """A backend, its feed, the registration of this supervisor, and what was logged about them.

    :param watches: receives the descriptor of the feed.
    :raises SpoolerUnusable: if the spooler cannot be used.
    """

    def __init__(self, backend: Backend, watches: Watches) -> None:
        self.backend = backend
        self._feed = backend.feed()
        self.state = FeedState()
        """The last state of the feed. ``more`` is set if ``refresh`` must be called before the next wait."""
        self.withholds = backend.capabilities.withholds
        self.records = backend.capabilities.records
        self._registration = backend.register("supervisor")
        self._watches = watches
        self._watched: int | None = None
        self._available = True
        self._paused = False
        self._complained: set[str] = set()

    @property
    def name(self) -> str:
        """The spooler's name."""
        return self.backend.name

    def refresh(self) -> None:
        """Refresh the feed and watch its descriptor, which changes if the feed starts over."""
        self.state = self._feed.refresh()
        fd = self._feed.fileno()
        if fd != self._watched:
            if self._watched is not None:
                self._watches.discard(self._watched)
            if fd is not None:
                self._watches.add(fd)
            self._watched = fd

    def take(self, limit: int) -> list[Ticket]:
        """Return up to ``limit`` due tickets; none if the spooler is unreachable, which the next ``refresh`` notes."""
        try:
            tickets = self._feed.take(limit)
        except SpoolerUnusable:  # the feed logs it
            self.state = self.state.after_take(0)._replace(more=True)
            return []
        if tickets:
            self.state = self.state.after_take(len(tickets))
        return tickets

    def release(self, tickets: Iterable[Ticket]) -> None:
        """Return tickets that were not started."""
        self._feed.release(tickets)
        self._outdate()

    def done(self, ref: str, until: float | None) -> None:
        """Note that a task has ended or, with ``until``, must be checked again at that time."""
        self._feed.done(ref, until)
        self._outdate()

    def settle(self, ended: Iterable[Ended]) -> None:
        """Settle runs for a worker that died before it could. If the spooler cannot be reached, the tasks run again."""
        ends = []
        for _, ref, _, record, _, fence in ended:
            claim = Claim(f"{self.name}/{ref}", ref, NOTHING, record.attempt, 0, fence=fence)
            ends.append(End(claim, Ack(), record, repeated=True))
        try:
            if ends:
                with limit(_ANSWER):
                    self.backend.exchange(ends, ())
        except (SpoolerUnusable, TaskTimeout) as error:
            why = "it does not answer" if isinstance(error, TaskTimeout) else error
            _log.error("tasks of spooler %s that have ended may run again: %d: %s", self.name, len(ends), why)

    def recheck(self) -> None:
        """Note that a worker died. Tasks that no process holds are handed out again."""
        self._feed.recheck()
        self._outdate()

    def _outdate(self) -> None:
        if not self.state.more:
            self.state = self.state._replace(more=True)

    def note_absence(self) -> bool:
        """Log when the spooler goes away or is back.

        :returns: True if it is back as another directory, in which the workers have no registration.
        """
        if self.state.available == self._available:
            return False
        self._available = self.state.available
        remote = self.backend.capabilities.remote
        if not self._available:
            what = "is away" if remote else "was removed"
            _log.warning("spooler %s %s; continuing when it is back", self.name, what)
            return False
        _log.warning("spooler %s is back", self.name)  # the level of the message about its loss
        if remote:
            return False
        self._registration.detach()  # its file went with the old directory
        self._registration = self.backend.register("supervisor")
        return True

    @property
    def pausing(self) -> bool:
        """Whether it is paused, and ``note_pause`` has not logged that yet."""
        return self.state.paused and not self._paused

    def note_pause(self) -> None:
        """Log when a pause begins or ends."""
        if self.state.paused != self._paused:
            self._paused = self.state.paused
            if self._paused:
                text = "paused %s: no task is started until 'unspool resume --spooler %s'"
                _log.warning(text, self.name, self.name)
            else:
                _log.info("resumed %s", self.name)

    def note_refusal(self, event: Refused, now: float) -> Record | None:
        """Note a claim that was refused to a worker.

        :returns: the record of a corrupt task, which is never run; None for all others.
        """
        _, ref, kind, until, detail = event
        if kind == RefusalKind.BUSY:
            self._feed.recheck([ref])
            self._outdate()
            return None
        self.done(ref, until)
        id = f"{self.name}/{ref}"
        if kind == RefusalKind.CORRUPT:
            return Record(id, "?", Verdict.CORRUPT, 0, now, 0.0, os.getpid(), detail)
        if kind == RefusalKind.UNUSABLE and ref not in self._complained and len(self._complained) < _COMPLAINTS:
            self._complained.add(ref)
            _log.warning("task %s is not run: %s", printable(id), detail)
        return None

    def note_crash(self, index: int, ref: str, process: Process, how: str, now: float) -> tuple[Record, float] | None:
        """Return the record of a run that a worker's death has ended, and when the task runs again.

        :param how: how the worker ended.
        :returns: None if the task had just left the queue.
        :raises SpoolerUnusable: if the spooler cannot be asked about the task.
        """
        entry = inspection.find(self.backend, ref)
        if entry is None:
            return None
        verdict = Verdict.TIMEOUT if (index, ref) in process.overrun else Verdict.CRASHED
        began = process.start_of(index, ref) or now
        lasted = max(now - began, 0.0)
        reason = f"its worker {how}"
        record = Record(entry.id, entry.task, verdict, entry.attempts, began, lasted, process.pid, reason)
        return record, max(now, entry.due)

    def close(self, patience: Patience) -> None:
        """Close the feed, and remove the registration.

        This does not wait for a server that does not answer, because the server detects the end of this process itself.
        """
        try:
            with limit(max(patience.left(), _LEAVE)):
                self._feed.close()
                self._registration.detach()
                self._registration.close()
        except TaskTimeout:
            _log.warning("spooler %s does not answer; not waiting for it", self.name)

    def close_in_child(self) -> None:
        """In a forked child, close what would keep the feed and the registration of the supervisor alive."""
        self._feed.close()
        self._registration.detach()
