"""Claims of tasks. A claim is a record of the run, written on the condition that no other process has written one."""

import contextlib
from collections.abc import Callable

from ...errors import Damaged, SpoolerUnusable
from ...message import Bury, Claim, Envelope, Refusal, RefusalKind
from ..base import Clock
from . import runs
from .cluster import Cluster
from .control import NatsControl
from .jetstream import ApiError, Conflict, JetStream, condition
from .names import LATER, NOW, is_token
from .runs import Run
from .stored import Facts, Stored
from .sync_connection import Broken, SyncConnection, at_once
from .tasks import Tasks
from .verdicts import Held, Verdicts

__all__ = ["Claims"]

_LOOK_AGAIN = 2.0


class Claims:
    """Claim the tasks of a cluster's spooler.

    :param read: returns the envelope of a message, or raises ``Damaged``.
    """

    def __init__(
        self,
        place: Cluster,
        tasks: Tasks,
        control: NatsControl,
        verdicts: Verdicts,
        read: Callable[[Stored], Envelope],
        clock: Clock,
    ) -> None:
        self._place = place
        self._names = place.names
        self._tasks = tasks
        self._control = control
        self._verdicts = verdicts
        self._envelope = read
        self._clock = clock

    def claim(self, ref: str) -> Claim | Refusal:
        """Claim a task and count the attempt. Return a refusal if it cannot be claimed."""
        if not is_token(ref):
            return Refusal(RefusalKind.GONE)
        self._verdicts.begin()
        try:
            with contextlib.suppress(Broken, ApiError), self._place.lane() as lane:
                if self._control.is_announced(lane) and (claim := self._claim_first(lane, ref)) is not None:
                    return claim
            self._verdicts.hear(None)
            return self._place.call(lambda stream: self._claim(stream, ref))
        except SpoolerUnusable as error:
            told = not isinstance(error, ApiError) or error.is_full  # already logged by the connection or the reserve
            kind = RefusalKind.EARLY if told else RefusalKind.UNUSABLE
            return Refusal(kind, self._clock() + _LOOK_AGAIN, str(error))

    def _claim_first(self, lane: SyncConnection, token: str) -> Claim | None:
        """Claim a newly sent task, which is the usual case, in one round trip.

        The record is written before the task is read. Return None if the record must be withdrawn or another record
        exists. The caller must then read more before it claims.
        """
        names = self._names
        if runs.is_noted(names, token):
            return None
        subject, record = names.run(token), Run(token, 0, 0, 1, runs.me()).dump()
        runs.note(names, token, 0)
        try:
            written = lane.send(subject, record, condition(names.records(token), 0))
            asked = lane.ask_for_last(names.tasks, names.task("*", "*", token))
            self._verdicts.hear(lane)
            stored = lane.last_of(asked)  # also if the record is refused, or its answer would stay in memory
            number = int(lane.answer(written)["seq"])
            waited = stored is not None and names.place(stored.subject)[0] != NOW
            if stored is not None and waited and at_once(self._tasks.drop_former(lane, stored)):
                stored = None  # the server may have delivered it again just before
        except BaseException as error:
            runs.forget(names, token, 0)
            if isinstance(error, ApiError) and error.is_conflict:
                return None
            lane.link.start(self._tasks.withdraw(lane.patient, token))  # it may have been written despite the error
            raise
        if stored is not None and not names.passing(stored.subject) and not stored.facts.anew:
            facts = stored.facts
            with contextlib.suppress(Damaged):
                if not facts.attempts and not self._is_early(stored):
                    return self._made(stored, facts, self._envelope(stored), number)
        runs.forget(names, token, 0)
        lane.drop_later(names.state, number)
        lane.flush()
        return None

    def _is_early(self, stored: Stored) -> bool:
        """Return whether a task is not due yet.

        A task sent to run at once is never early, even if its sender's clock is ahead. A task that the server still
        holds back is always early.
        """
        kind, _, _ = self._names.place(stored.subject)
        return kind == LATER or (kind != NOW and stored.facts.due > self._clock())

    def _made(self, stored: Stored, facts: Facts, envelope: Envelope, record: int) -> Claim:
        """Return the claim for a written record."""
        _, _, token = self._names.place(stored.subject)
        runs.note(self._names, token, record)
        id = f"{self._place.name}/{token}"
        held = Held(stored, facts, record)
        return Claim(id, token, envelope, facts.attempts + 1, facts.crashes, held, facts.unhandled)

    async def _claim(self, stream: JetStream, token: str) -> Claim | Refusal:
        await self._control.announce(stream)
        for _ in range(2):  # the first record found may be a record of this process that is being withdrawn
            with contextlib.suppress(Conflict):
                return await self._begin(stream, token)
        return Refusal(RefusalKind.BUSY)

    async def _begin(self, stream: JetStream, token: str) -> Claim | Refusal:
        """Read a task, write the record of its run, and check that the task is unchanged.

        Between the read and the write, another worker may have finished the task and deleted its own record.

        :raises Conflict: if another process has just started or changed the task.
        """
        names, patience = self._names, self._place.patience
        stored, run = await self._tasks.look(stream, token)
        if stored is None or names.passing(stored.subject):
            return Refusal(RefusalKind.GONE)
        if run is not None and not run.is_of(stored) and await self._tasks.drop_former(stream, stored):
            raise Conflict  # the record may belong to another, later message of the task
        if run is not None and run.is_of(stored):
            if await runs.is_held(stream, names, run, patience):
                return Refusal(RefusalKind.BUSY)
            if run.process != runs.me():  # otherwise this process gave up the claim, so the task never ran
                counted = await self._tasks.count_crash(stream, stored, run)
                if counted is None:
                    return Refusal(RefusalKind.BUSY)
                stored = counted
        facts = stored.facts
        if self._is_early(stored):
            await self._tasks.drop_former(stream, stored)
            return Refusal(RefusalKind.EARLY, facts.due)
        record = await self._tasks.begin(stream, Run(token, 0, stored.seq, facts.attempts + 1, runs.me()), run)
        claim: Claim | Refusal | None = None
        try:
            # Before the check, because the server could deliver one of them until then.
            await self._tasks.drop_former(stream, stored)
            last = await stream.last(names.tasks, names.task("*", "*", token), patience=patience)
            if last is None or last.seq != stored.seq:
                raise Conflict
            claim = self._made(stored, facts, self._envelope(stored), record)
            return claim
        except Damaged as error:
            await self._tasks.set_aside(stream, stored, facts, Bury(str(error), corrupt=True), record)
            return Refusal(RefusalKind.CORRUPT, None, str(error))
        finally:
            if claim is None:
                runs.forget(names, token, 0)
                await stream.drop(names.state, record)
