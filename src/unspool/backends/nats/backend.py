"""Tasks in NATS JetStream as a backend: enqueue, claim, settle.

Enqueue. A task is one message with a subject of its own, published with a message id: a publish that is repeated for
want of an answer is stored once. The answer comes when a quorum has it.

Claim. The server's consumer hands the header of a message to one supervisor, which tells a worker its token. That is a
hint: the worker reads the task from the stream's leader and writes a record of its run, on the condition that nobody
else has written one. A record whose process is dead tells of a crash; the crash is then counted by writing the task
anew, which brings it to somebody as a new message.

Settle. The task's sequence number is the fence. Done deletes that number. Again, and a counted crash, write the task
anew on the condition that it is the last of its subject. So what was taken over meanwhile has another number, and the
verdict of the one who was cut off comes to nothing.
"""

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Coroutine, Iterator, Sequence
from concurrent.futures import Future
from typing import Any, NamedTuple

from ... import codec, wire
from ...address import Address
from ...errors import Damaged, PayloadRefused, SpoolerUnusable, Unsigned
from ...message import (
    Ack,
    Bury,
    Claim,
    Disposition,
    Entry,
    Envelope,
    Record,
    Refusal,
    RefusalKind,
    Release,
    Retry,
    State,
)
from ...signing import Signer
from ..base import UNSIGNED_PICKLE, Capabilities, Clock, Feed, Settings
from . import runs
from .changing import Changing
from .control import NatsControl
from .depot import NatsDepot
from .feed import NatsFeed
from .history import History
from .jetstream import NO_STREAM, ApiError, Conflict, JetStream
from .link import Unreachable
from .listing import Listing
from .names import is_token, new_token, rank_part
from .place import Place
from .runs import Run
from .stored import ROOM, Facts, Stored
from .tasks import Tasks

__all__ = ["NatsBackend"]

_log = logging.getLogger("unspool")
_LEAD = 1.0  # seconds before its due time that the server lets a task go: it has a grain of that, we have none
_AT_ONCE = 500  # publishes under way at a time
_SETTLE = 5.0  # seconds that a worker waits for a verdict to be carried out; after that it is done in the background
_BEHIND = 100  # verdicts that may be under way while the worker goes on
_LOOK_AGAIN = 2.0
_TRY_ON = 1.0


class _Token(NamedTuple):
    """What a claim carries: the message that is run, and the number of the record."""

    stored: Stored
    facts: Facts
    record: int


class NatsBackend:
    """Tasks in a NATS cluster.

    :param address: where, and how to get there.
    :param signer: signs what is sent, and refuses what is not signed; without it, pickles are refused.
    :param trusting: True to take pickles all the same: for servers that nobody else can reach.
    :param schedules: False where the server shall not keep deferred tasks back, so that feeds do.
    :param hold: seconds before its due time from which on a feed keeps a task that was handed to it; one that is due
        later than that it hands back until then.
    :param look: seconds between two looks of a feed whether there is really nothing.
    :param window: tasks that a feed holds ready, if there are so many and workers take them.
    :raises OptionRefused: for a parameter of the URL that there is not.
    """

    capabilities = Capabilities(feeds=True, forks=True, remote=True, withholds=True)

    def __init__(
        self,
        address: Address,
        settings: Settings,
        *,
        signer: Signer | None = None,
        trusting: bool = False,
        schedules: bool = True,
        hold: float = 30.0,
        look: float = 0.05,
        window: int = 16,
        patience: float = 5.0,
        clock: Clock = time.time,
    ) -> None:
        limit, age = settings.history_limit, settings.history_age
        self._place = Place(address, patience=patience, history_limit=limit, history_age=age)
        self.name = self._place.name
        self._names = self._place.names
        self._signer = signer
        self._pickles = trusting or signer is not None
        self._clock = clock
        self._tasks = Tasks(self._place, clock, schedules)
        self._changing = Changing(self._place, self._tasks, clock)
        self._hold = hold
        self._look, self._window = look, window
        self._behind: set[Future[None]] = set()
        self._lock = threading.Lock()
        self.control = NatsControl(self._place, settings.period)
        self.depot = NatsDepot(self._place, self._tasks, self.control, self._check, self._check_size)
        self._listing = Listing(self._place, clock)
        self._history = History(self._place)

    def exists(self) -> bool:
        self._place.stream()  # which makes what is missing
        return True

    # --- producers

    def send(self, envelopes: Sequence[Envelope]) -> list[str]:
        if not envelopes:
            return []
        self._check(envelopes)
        return self._place.call(lambda stream: self._send(stream, envelopes))

    def _check(self, envelopes: Sequence[Envelope]) -> None:
        if not self._pickles and any(map(codec.is_pickled, envelopes)):
            raise PayloadRefused(f"spooler {self.name} does not take this payload: {UNSIGNED_PICKLE}")

    @staticmethod
    def _check_size(stream: JetStream, data: bytes) -> None:
        room = stream.link.client.max_payload - ROOM
        if len(data) > room:
            raise PayloadRefused(
                f"a task of {len(data)} bytes is more than {stream.shown} takes, which is {room} with its headers; "
                "raise max_payload there, or pass what is large by a path or a key"
            )

    async def _send(self, stream: JetStream, envelopes: Sequence[Envelope]) -> list[str]:
        messages = []
        for envelope in envelopes:
            data = wire.dump(envelope.vars, envelope.body, self._signer)
            self._check_size(stream, data)
            messages.append((envelope, data))
        for rank in {rank_part(envelope.priority) for envelope in envelopes}:
            await self._place.ensure_rank(stream, rank)
        ids = []
        for at in range(0, len(messages), _AT_ONCE):
            sends = []
            for envelope, data in messages[at : at + _AT_ONCE]:
                now = self._clock()
                token = new_token(now)
                fresh = envelope.due is None
                facts = Facts(now if envelope.due is None else envelope.due)
                sends.append(self._tasks.put(stream, rank_part(envelope.priority), token, facts, data, fresh=fresh))
                ids.append(f"{self.name}/{token}")
            await _all(sends)
        return ids

    # --- workers

    def feed(self) -> Feed:
        return NatsFeed(self._place, self.control, self._clock, hold=self._hold, look=self._look, window=self._window)

    def claim(self, ref: str) -> Claim | Refusal:
        if not is_token(ref):
            return Refusal(RefusalKind.GONE)
        try:
            return self._place.call(lambda stream: self._claim(stream, ref))
        except SpoolerUnusable as error:
            return Refusal(RefusalKind.EARLY, self._clock() + _LOOK_AGAIN, str(error))

    async def _claim(self, stream: JetStream, token: str) -> Claim | Refusal:
        await self.control.announce(stream)
        names, patience = self._names, self._place.patience
        stored = await stream.last(names.tasks, names.task("*", "*", token), patience=patience)
        if stored is None or names.passing(stored.subject):
            return Refusal(RefusalKind.GONE)
        run = None
        if stored.facts.anew:  # it has been run before, so there may be more to know
            await self._tasks.drop_former(stream, stored)
            run = await self._tasks.run_of(stream, token)
        for _ in range(2):
            begun = run if run is not None and run.message == stored.seq else None
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
        if facts.due > self._clock():
            return Refusal(RefusalKind.EARLY, facts.due)
        _, priority, _ = self._names.place(stored.subject)
        try:
            envelope = wire.load(stored.data, self._signer, priority=priority, due=facts.due)
            if not self._pickles and codec.is_pickled(envelope):
                raise Unsigned(UNSIGNED_PICKLE)
        except Damaged as error:  # also if it is unsigned where a key is set
            await self._tasks.set_aside(stream, stored, facts, Bury(str(error), corrupt=True))
            return Refusal(RefusalKind.CORRUPT, None, str(error))
        attempts = facts.attempts + 1
        subject = self._names.run(token)
        if runs.is_noted(self._names, token):
            raise Conflict
        runs.note(self._names, token, 0)
        try:
            record = await stream.publish(
                self._names.state,
                subject,
                Run(token, 0, stored.seq, attempts, runs.me()).dump(),
                replaces=(subject, former),
                patience=self._place.patience,
            )
        except BaseException as error:
            runs.forget(self._names, token, 0)
            if not isinstance(error, Conflict):
                stream.link.start(self._withdraw(stream, token))  # it may have been written all the same
            raise
        runs.note(self._names, token, record)
        id = f"{self.name}/{token}"
        return Claim(id, token, envelope, attempts, facts.crashes, _Token(stored, facts, record))

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

    def settle(self, claim: Claim, disposition: Disposition, record: Record | None = None) -> float | None:
        work = self._place.start(lambda stream: self._settle(stream, claim, disposition))
        with self._lock:
            self._behind.add(work)
        work.add_done_callback(self._done)
        if not isinstance(disposition, Ack) or len(self._behind) > _BEHIND:
            with contextlib.suppress(TimeoutError, SpoolerUnusable):  # of which ``_done`` tells
                work.result(_SETTLE)
        match disposition:
            case Retry(at):
                return at
            case Release():
                return self._clock()
        return None

    def put_off(self, ref: str, until: float) -> None:
        with contextlib.suppress(SpoolerUnusable):  # then it runs again a little early
            self._place.call(lambda stream: self._tasks.put_off(stream, ref, until))

    def excuse(self, ref: str) -> None:
        with contextlib.suppress(SpoolerUnusable):  # then it counts
            self._place.call(lambda stream: self._tasks.excuse(stream, ref))

    async def _settle(self, stream: JetStream, claim: Claim, disposition: Disposition) -> None:
        """Goes on until it is done: what has ended must not run again for want of an answer."""
        token: _Token = claim.token
        facts = token.facts._replace(attempts=claim.attempts)
        complained = False
        try:
            while True:
                try:
                    done = await self._carry_out(stream, token.stored, facts, disposition)
                    break
                except ApiError as error:
                    if error.code == NO_STREAM:
                        raise
                    complaint: Exception = error
                except Unreachable as error:
                    complaint = error
                if not complained:
                    _log.warning("the end of task %s cannot be told: %s; trying on", claim.id, complaint)
                complained = True
                await asyncio.sleep(_TRY_ON)
        finally:
            runs.forget(self._names, claim.ref, token.record)
        if not done and not complained:  # else it may have been done when no answer came
            _log.warning(
                "task %s was taken over or removed while this process was cut off: its end here does not count",
                claim.id,
            )
        await stream.drop(self._names.state, token.record)  # without its message it is void

    async def _carry_out(self, stream: JetStream, stored: Stored, facts: Facts, disposition: Disposition) -> bool:
        match disposition:
            case Ack():
                return await stream.delete(self._names.tasks, stored.seq, patience=self._place.patience)
            case Retry(at):
                return await self._tasks.anew(stream, stored, facts._replace(due=at)) > 0
            case Release():
                return await self._tasks.anew(stream, stored, facts._replace(attempts=facts.attempts - 1)) > 0
            case Bury():
                begun = facts._replace(attempts=facts.attempts - (not disposition.begun))
                return await self._tasks.set_aside(stream, stored, begun, disposition)

    def _done(self, work: Future[None]) -> None:
        with self._lock:
            self._behind.discard(work)
        if not work.cancelled() and (error := work.exception()) is not None:
            _log.error("the end of a task cannot be told to %s: %s", self.name, error)

    def flush(self) -> None:
        for work in list(self._behind):
            with contextlib.suppress(TimeoutError, SpoolerUnusable):
                work.result(_SETTLE)

    # --- people

    def entries(self, states: frozenset[State] = frozenset(State), limit: int | None = None) -> Iterator[Entry]:
        return self._listing.entries(states, limit)

    def counts(self) -> dict[State, int]:
        return self._listing.counts()

    def find(self, id: str) -> Entry | None:
        found = self._listing.find(id)
        return found[0] if found else None

    def read(self, id: str) -> tuple[Entry, Envelope | None] | None:
        found = self._listing.find(id)
        if found is None:
            return None
        entry, stored = found
        try:
            return entry, wire.load(stored.data, None, priority=entry.priority, due=entry.due)
        except Damaged:
            return entry, None

    def retry(self, id: str) -> str:
        return self._place.call(lambda stream: self._changing.retry(stream, id))

    def remove(self, id: str) -> None:
        self._place.call(lambda stream: self._changing.remove(stream, id))

    def record(self, records: Sequence[Record]) -> None:
        self._history.add(records)

    def history(self, *, id: str | None = None, limit: int = 100) -> list[Record]:
        return self._history.latest(id, limit)

    def close(self) -> None:
        self.flush()
        self.depot.release()
        self._place.close()


async def _all(works: Sequence[Coroutine[Any, Any, Any]]) -> None:
    """Runs them side by side; where one fails the rest is still waited for: nothing goes on behind the caller."""
    for result in await asyncio.gather(*works, return_exceptions=True):
        if isinstance(result, BaseException):
            raise result
