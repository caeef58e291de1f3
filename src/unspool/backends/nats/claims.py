"""Tasks taken for execution: a record of the run, written on the condition that nobody else has written one."""

import asyncio
import contextlib
from collections.abc import Callable

from ...errors import Damaged, SpoolerUnusable
from ...message import Bury, Claim, Envelope, Refusal, RefusalKind
from ..base import Clock
from . import runs
from .control import NatsControl
from .jetstream import ApiError, Conflict, JetStream, condition, new_id
from .lane import Broken, Lane
from .link import Unreachable
from .names import NOW, is_token
from .place import Place
from .runs import Run
from .stored import Facts, Stored
from .tasks import Tasks
from .verdicts import Held, Verdicts

__all__ = ["Claims"]

_LOOK_AGAIN = 2.0
_TRY_ON = 1.0


class Claims:
    """Claims the tasks of a place.

    :param read: the envelope of a message; raises ``Damaged``.
    """

    def __init__(
        self,
        place: Place,
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
        """Takes a task for execution, its attempt counted; or says why not."""
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
            return Refusal(RefusalKind.EARLY, self._clock() + _LOOK_AGAIN, str(error))

    def _claim_first(self, lane: Lane, token: str) -> Claim | None:
        """Claims a task that was just sent and that nobody has begun, which is the usual case, in one round trip.

        The record is written before it is known what it records. None if it must not stand, or if there is one already:
        then there is more to know.
        """
        names = self._names
        if runs.is_noted(names, token):
            return None
        subject, record = names.run(token), Run(token, 0, 0, 1, runs.me()).dump()
        runs.note(names, token, 0)
        try:
            written = lane.send(subject, record, {**new_id(), **condition(subject, 0)})
            asked = lane.ask_for_last(names.tasks, names.task("*", "*", token))
            self._verdicts.hear(lane)
            number = int(lane.answer(written)["seq"])
            stored = lane.last_of(asked)
        except BaseException as error:
            runs.forget(names, token, 0)
            if isinstance(error, ApiError) and error.is_conflict:
                return None
            lane.link.start(self._withdraw(lane.patient, token))  # it may have been written all the same
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
        """What was sent to be run at once is not, though its sender's clock be ahead of ours."""
        return stored.facts.due > self._clock() and self._names.place(stored.subject)[0] != NOW

    def _made(self, stored: Stored, facts: Facts, envelope: Envelope, record: int) -> Claim:
        """The claim that a record makes."""
        _, _, token = self._names.place(stored.subject)
        runs.note(self._names, token, record)
        id = f"{self._place.name}/{token}"
        return Claim(id, token, envelope, facts.attempts + 1, facts.crashes, Held(stored, facts, record))

    async def _claim(self, stream: JetStream, token: str) -> Claim | Refusal:
        await self._control.announce(stream)
        names, patience = self._names, self._place.patience
        stored = await stream.last(names.tasks, names.task("*", "*", token), patience=patience)
        if stored is None or names.passing(stored.subject):
            return Refusal(RefusalKind.GONE)
        run = None
        if stored.facts.anew:  # it has been run before, so there may be more to know
            await self._tasks.drop_former(stream, stored)
            run = await self._tasks.run_of(stream, token)
        for _ in range(2):
            begun = run if run is not None and run.is_of(stored) else None
            if begun is not None:
                if await runs.is_held(stream, names, begun, patience):
                    return Refusal(RefusalKind.BUSY)
                if begun.process != runs.me():  # else a claim of ours that we gave up, so it was never run
                    counted = await self._tasks.count_crash(stream, stored, begun)
                    if counted is None:
                        return Refusal(RefusalKind.BUSY)
                    stored = counted
            try:
                return await self._begin(stream, token, stored, run.seq if run else 0)
            except Conflict:
                known = stored.seq
                now, run = await self._tasks.look(stream, token)
                if now is None or now.seq != known:  # it has ended meanwhile, or is carried away
                    return Refusal(RefusalKind.BUSY)
        return Refusal(RefusalKind.BUSY)

    async def _begin(self, stream: JetStream, token: str, stored: Stored, former: int) -> Claim | Refusal:
        """Looks at a task, and writes the record of its run.

        :param former: the number of the last record.
        :raises Conflict: if there is a later one.
        """
        facts = stored.facts
        if self._is_early(stored):
            return Refusal(RefusalKind.EARLY, facts.due)
        try:
            envelope = self._envelope(stored)
        except Damaged as error:
            await self._tasks.set_aside(stream, stored, facts, Bury(str(error), corrupt=True))
            return Refusal(RefusalKind.CORRUPT, None, str(error))
        subject = self._names.run(token)
        if runs.is_noted(self._names, token):
            raise Conflict
        runs.note(self._names, token, 0)
        try:
            record = await stream.publish(
                self._names.state,
                subject,
                Run(token, 0, stored.seq, facts.attempts + 1, runs.me()).dump(),
                replaces=(subject, former),
                patience=self._place.patience,
            )
        except BaseException as error:
            runs.forget(self._names, token, 0)
            if not isinstance(error, Conflict):
                stream.link.start(self._withdraw(stream.patient, token))  # it may have been written all the same
            raise
        return self._made(stored, facts, envelope, record)

    async def _withdraw(self, stream: JetStream, token: str) -> None:
        """Takes back a record of this process, which has given up the claim, so that others need not wait for it."""
        names, patience = self._names, self._place.patience
        while True:
            with contextlib.suppress(Unreachable):
                run = await self._tasks.run_of(stream, token)
                if run is not None and run.process == runs.me() and not runs.is_noted(names, token):
                    await stream.delete(names.state, run.seq, patience=patience)
                return
            await asyncio.sleep(_TRY_ON)
