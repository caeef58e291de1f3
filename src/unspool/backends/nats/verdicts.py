"""The verdicts on tasks that were run, sent until the servers confirm them.

The end of a task is sent on the fast path together with the next claim, or when the worker waits. Its answer is read
there. Other verdicts, and ends without an answer, are sent on the asyncio connection.
"""

import asyncio
import contextlib
import logging
import threading
from concurrent.futures import Future
from typing import NamedTuple

from ...errors import SpoolerUnusable
from ...message import Ack, Bury, Claim, Disposition, Release, Retry
from ..base import Clock
from . import ends, runs
from .async_connection import Unreachable
from .cluster import Cluster
from .jetstream import NO_STREAM, ApiError, JetStream
from .stored import Facts, Stored
from .sync_connection import Broken, SyncConnection
from .tasks import Tasks

__all__ = ["Held", "Verdicts"]

_log = logging.getLogger("unspool")
_SETTLE = 5.0  # seconds that a worker waits for a verdict; after that it is carried out in the background
_BEHIND = 100  # verdicts that may be unconfirmed while the worker continues
_TRY_ON = 1.0


class Held(NamedTuple):
    """The content of a claim: the message that is run, its metadata, and the number of the run's record."""

    stored: Stored
    facts: Facts
    record: int


class Verdicts:
    """Settle the tasks of a spooler."""

    def __init__(self, place: Cluster, tasks: Tasks, clock: Clock) -> None:
        self._place = place
        self._names = place.names
        self._tasks = tasks
        self._clock = clock
        self._behind: set[Future[None]] = set()
        self._told: list[tuple[SyncConnection, int, Claim]] = []
        self._claimer = 0
        self._lock = threading.Lock()

    def begin(self) -> None:
        """Note that the calling thread claims tasks. It also reads the answers."""
        self._claimer = threading.get_ident()

    def settle(self, claim: Claim, disposition: Disposition) -> float | None:
        """Carry out a disposition now or later. Return when to check the task again, or None if it left the queue."""
        if isinstance(disposition, Ack) and threading.get_ident() == self._claimer and self._tell(claim):
            return None
        work = self._settle_behind(claim, disposition)
        if not isinstance(disposition, Ack) or len(self._behind) > _BEHIND:
            with contextlib.suppress(TimeoutError, SpoolerUnusable):  # ``_done`` reports it
                work.result(_SETTLE)
        match disposition:
            case Retry(at):
                return at
            case Release():
                return self._clock()
        return None

    def _tell(self, claim: Claim) -> bool:
        """Send a task's end with the next claim or flush, which reads the answer. Return whether that is possible."""
        with contextlib.suppress(Broken, SpoolerUnusable), self._place.lane() as lane:
            stored: Stored = claim.token.stored
            number = lane.send(*ends.publication(self._names, stored, claim.token.record))
            lane.drop_later(self._names.tasks, stored.seq)
            self._told.append((lane, number, claim))
            return True
        return False

    def hear(self, lane: SyncConnection | None) -> None:
        """Read the answers to the ends that were sent. Ends without an answer are sent again in the background.

        :param lane: the connection that can be read now.
        """
        while self._told:
            asked, number, claim = self._told[0]
            try:
                if asked is not lane:
                    asked.ignore(number)
                    raise Broken("it has ended")
                asked.answer(number)
            except (Broken, ApiError) as error:
                conflict = isinstance(error, ApiError) and error.is_conflict
                self._settle_behind(claim, Ack(), repeated=not conflict)
                self._told.pop(0)
                continue
            self._told.pop(0)
            runs.forget(self._names, claim.ref, claim.token.record)
            asked.drop_later(self._names.state, claim.token.record)

    def _settle_behind(self, claim: Claim, disposition: Disposition, *, repeated: bool = False) -> Future[None]:
        work = self._place.start(lambda stream: self._settle(stream, claim, disposition, repeated=repeated))
        with self._lock:
            self._behind.add(work)
        work.add_done_callback(self._done)
        return work

    async def _settle(self, stream: JetStream, claim: Claim, disposition: Disposition, *, repeated: bool) -> None:
        """Repeat until it is done, because an ended task must not run again for want of an answer.

        :param repeated: whether an earlier attempt may have succeeded.
        """
        token: Held = claim.token
        facts = token.facts._replace(attempts=claim.attempts)
        complained = False
        try:
            while True:
                try:
                    done = await self._carry_out(stream, token.stored, facts, token.record, disposition)
                    break
                except ApiError as error:
                    if error.code == NO_STREAM:
                        raise
                    complaint: Exception = error
                except Unreachable as error:
                    complaint = error
                if not complained:
                    _log.warning("the end of task %s cannot be sent: %s; trying again", claim.id, complaint)
                complained = True
                await asyncio.sleep(_TRY_ON)
        finally:
            runs.forget(self._names, claim.ref, token.record)
        # Otherwise an earlier attempt may have succeeded without an answer.
        if not done and not complained and not repeated:
            self._taken_over(claim)
        await stream.drop(self._names.state, token.record)  # without its message the record is void

    @staticmethod
    def _taken_over(claim: Claim) -> None:
        _log.warning(
            "task %s was taken over or removed while this process was cut off, so the end of its run here is ignored",
            claim.id,
        )

    async def _carry_out(
        self, stream: JetStream, stored: Stored, facts: Facts, record: int, disposition: Disposition
    ) -> bool:
        match disposition:
            case Ack():
                return await self._tasks.end(stream, stored, record)
            case Retry(at):
                if not disposition.begun:
                    facts = facts._replace(attempts=facts.attempts - 1, unhandled=facts.unhandled + 1)
                return await self._tasks.anew(stream, stored, facts._replace(due=at)) > 0
            case Release():
                return await self._tasks.anew(stream, stored, facts._replace(attempts=facts.attempts - 1)) > 0
            case Bury():
                begun = facts._replace(attempts=facts.attempts - (not disposition.begun))
                return await self._tasks.set_aside(stream, stored, begun, disposition, record)

    def _done(self, work: Future[None]) -> None:
        with self._lock:
            self._behind.discard(work)
        if not work.cancelled() and (error := work.exception()) is not None:
            _log.error("the end of a task cannot be sent to %s: %s", self._place.name, error)

    def flush(self, *, wait: bool) -> None:
        """Carry out all verdicts. Return when they are confirmed, or at once if ``wait`` is False."""
        if not wait:
            with contextlib.suppress(SpoolerUnusable):  # the next call raises it again
                self.hear(None)
            return
        if self._told:
            with contextlib.suppress(Broken, SpoolerUnusable), self._place.lane() as lane:
                self.hear(lane)
                lane.flush()
            self.hear(None)
        for work in list(self._behind):
            with contextlib.suppress(TimeoutError, SpoolerUnusable):
                work.result(_SETTLE)
