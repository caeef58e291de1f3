"""Transfer of tasks from and to a NATS queue.

A task in transfer is a message under a subject that no consumer delivers. Each step rewrites it on the condition that
it is still the last message of its task. Its sequence number is therefore the fence, and a carrier that was cut off and
returns late changes nothing. The header names the carrier.
"""

import asyncio
import contextlib
import os
from collections.abc import Callable, Coroutine, Iterable, Sequence
from itertools import islice
from typing import Any, TypeVar

from ... import wire
from ...errors import Damaged, SpoolerUnusable
from ...message import Bury, Envelope, State
from ..depot import Parcel
from . import runs
from .cluster import Cluster
from .control import NatsControl
from .jetstream import Conflict, JetStream
from .names import ARRIVING, CORRUPT, DEAD, LATER, LEAVING, SOON, on_the_way, rank_part
from .runs import Process, Run
from .stored import HEADER, Facts, Passage, Stored
from .tasks import Tasks

__all__ = ["NatsDepot"]

T = TypeVar("T")

_AT_ONCE = 50
_MOST = 1 << 25  # maximum bytes of tasks held at once, not counting the last batch
_KINDS = {State.READY: "", State.DEAD: DEAD, State.CORRUPT: CORRUPT}


class NatsDepot:
    """Implement ``depot.Depot`` for NATS.

    :param check: raises ``PayloadRefused`` for envelopes that this queue does not accept.
    :param fits: raises ``PayloadRefused`` for wire forms that are too large.
    """

    def __init__(
        self,
        place: Cluster,
        tasks: Tasks,
        control: NatsControl,
        check: Callable[[Sequence[Envelope]], None],
        fits: Callable[[JetStream, bytes], None],
    ) -> None:
        self._place = place
        self._names = place.names
        self._tasks = tasks
        self._control = control
        self._check = check
        self._fits = fits
        self._carried: dict[str, Stored] = {}

    # --- the source

    def leave(self, ids: Iterable[str]) -> list[Parcel]:
        parcels: list[Parcel] = []
        tokens = (token for id in ids if (token := self._place.token(id)) is not None)
        while sum(len(one.data) for one in parcels) < _MOST and (some := list(islice(tokens, _AT_ONCE))):
            parcels += self._place.call(lambda stream, some=some: self._leave_all(stream, some))  # type: ignore[misc]
        return parcels

    async def _leave_all(self, stream: JetStream, tokens: Sequence[str]) -> list[Parcel]:
        await self._control.announce(stream)
        return _found(await _each(self._leave(stream, token) for token in dict.fromkeys(tokens)))

    async def _leave(self, stream: JetStream, token: str) -> Parcel | None:
        names, patience = self._names, self._place.patience
        stored, run = await self._tasks.look(stream, token)
        if stored is None:
            stored = await self._tasks.last(stream, names.aside, token, run)
        if stored is None or names.passing(stored.subject):
            return None
        await self._tasks.drop_former(stream, stored)
        kind, priority, _ = names.place(stored.subject)
        if kind not in (DEAD, CORRUPT):
            if run is not None and run.is_of(stored):
                if await runs.is_held(stream, names, run, patience):
                    return None
                if run.process != runs.me():
                    counted = await self._tasks.count_crash(stream, stored, run)
                    return await self._leave(stream, token) if counted else None
            if kind == LATER:  # otherwise the server could release it beside the staged copy after a kill
                with contextlib.suppress(Conflict):
                    await self._tasks.put(stream, rank_part(priority), token, stored.facts, stored.data, stored, SOON)
                    return await self._leave(stream, token)
                return None
            try:  # the lock expires by itself, long after each process that read the task earlier has seen it
                await self._tasks.lock(stream, stored, run)
            except Conflict:
                return None
        passage = Passage(os.urandom(16).hex())
        parcel = await self._write(stream, stored, on_the_way(LEAVING, kind), stored.facts, passage)
        if parcel is None:
            runs.forget(names, token, 0)
        return parcel

    def departures(self) -> list[Parcel]:
        return self._place.call(self._departures)

    async def _departures(self, stream: JetStream) -> list[Parcel]:
        await self._control.announce(stream)
        names, parcels = self._names, list[Parcel]()
        for kind in (on_the_way(LEAVING, kind) for kind in _KINDS.values()):
            read = stream.read(names.stream(kind), names.task(kind, "*", "*"), patience=self._place.patience)
            parcels += _found([await self._take(stream, stored) async for stored in read])
        return parcels

    async def _take(self, stream: JetStream, stored: Stored) -> Parcel | None:
        """Take over the transfer of a task whose carrier has ended."""
        names, patience, facts = self._names, self._place.patience, stored.facts
        kind, _, token = names.place(stored.subject)
        run = await self._tasks.run_of(stream, token)
        if run is not None and run.voids(stored):
            return None  # the transfer is complete, and a server has restored the message
        passage = facts.passage or Passage(os.urandom(16).hex())
        process = Process.of(passage.carrier)
        if process and await runs.is_held(stream, names, Run(token, 0, stored.seq, 0, process), patience):
            return None
        parcel = await self._write(stream, stored, kind, facts, passage)
        if parcel is not None:  # the previous carrier may have been killed before the original message was deleted
            await self._tasks.drop_former(stream, parcel.token)
        return parcel

    async def _write(
        self, stream: JetStream, stored: Stored, kind: str, facts: Facts, passage: Passage
    ) -> Parcel | None:
        """Record the progress of a transfer and that this process carries it. Return None if the task has changed."""
        noted = facts._replace(passage=passage._replace(carrier=runs.me().key))
        _, priority, token = self._names.place(stored.subject)
        runs.note(self._names, token, 0)  # before another process can read the record
        try:
            seq = await self._tasks.turn(stream, stored, kind, noted)
        except BaseException:
            runs.forget(self._names, token, 0)
            raise
        if not seq:
            return None
        subject = self._names.task(kind, rank_part(priority), token)
        held = stored._replace(subject=subject, seq=seq, header=stored.replaced(noted).dump())
        self._carried[token] = held
        return Parcel(
            passage.key,
            f"{self._place.name}/{token}",
            next(state for state, one in _KINDS.items() if on_the_way(LEAVING, one) == kind),
            stored.data,
            priority,
            facts.due,
            facts.attempts,
            facts.crashes,
            facts.reason,
            passage.destination,
            held,
        )

    def release(self) -> None:
        carried, self._carried = self._carried, {}
        mine = {token: stored for token, stored in carried.items() if runs.is_noted(self._names, token)}
        for token in mine:
            runs.forget(self._names, token, 0)
        if mine:
            with contextlib.suppress(SpoolerUnusable):  # otherwise they are released when this process ends
                self._place.call(lambda stream: _each(self._free(stream, stored) for stored in mine.values()))

    async def _free(self, stream: JetStream, stored: Stored) -> None:
        facts = stored.facts
        passage = facts.passage._replace(carrier="") if facts.passage else None
        await self._tasks.turn(stream, stored, self._names.place(stored.subject)[0], facts._replace(passage=passage))

    def stay(self, parcels: Sequence[Parcel], corrupt: str = "") -> None:
        self._place.call(lambda stream: _each(self._stay(stream, parcel.token, corrupt) for parcel in parcels))
        self._let_go(parcels)

    async def _stay(self, stream: JetStream, stored: Stored, corrupt: str) -> None:
        kind = self._names.place(stored.subject)[0].removeprefix(on_the_way(LEAVING, ""))
        facts = stored.facts._replace(passage=None)
        if kind:
            kind, facts = (CORRUPT, facts._replace(reason=corrupt)) if corrupt else (kind.removeprefix("-"), facts)
            await self._tasks.turn(stream, stored, kind, facts)
        elif corrupt:
            await self._tasks.set_aside(stream, stored, facts, Bury(corrupt, corrupt=True), None)
        else:
            await self._tasks.anew(stream, stored, facts)

    def left(self, parcels: Sequence[Parcel], destination: str) -> list[Parcel]:
        return self._place.call(lambda stream: self._left(stream, parcels, destination))

    async def _left(self, stream: JetStream, parcels: Sequence[Parcel], destination: str) -> list[Parcel]:
        works = []
        for parcel in parcels:
            stored: Stored = parcel.token
            kind = self._names.place(stored.subject)[0]
            works.append(self._write(stream, stored, kind, stored.facts, Passage(parcel.key, destination)))
        return _found(await _each(works))

    def gone(self, parcels: Sequence[Parcel]) -> None:
        self._place.call(lambda stream: _each(self._gone(stream, parcel.token) for parcel in parcels))
        self._let_go(parcels)

    async def _gone(self, stream: JetStream, stored: Stored) -> None:
        await self._tasks.end(stream, stored, None)

    def _let_go(self, parcels: Iterable[Parcel]) -> None:
        for parcel in parcels:
            _, _, token = self._names.place(parcel.token.subject)
            self._carried.pop(token, None)
            runs.forget(self._names, token, 0)

    # --- the destination

    @property
    def identity(self) -> str:
        return ""

    def accept(self, parcels: Sequence[Parcel]) -> None:
        for parcel in parcels:
            if parcel.state is not State.CORRUPT:
                self._check(_envelopes(parcel))
        self._place.call(lambda stream: self._accept_all(stream, parcels))

    async def _accept_all(self, stream: JetStream, parcels: Sequence[Parcel]) -> None:
        for parcel in parcels:
            self._fits(stream, parcel.data)
        await _each(self._accept(stream, parcel) for parcel in parcels)

    async def _accept(self, stream: JetStream, parcel: Parcel) -> None:
        names, patience = self._names, self._place.patience
        kind, rank, token = on_the_way(ARRIVING, _KINDS[parcel.state]), rank_part(parcel.priority), _token(parcel)
        name, subject = names.stream(kind), names.task(kind, rank, token)
        other = names.aside if name == names.tasks else names.tasks
        former, stale = await asyncio.gather(
            *(stream.last(one, names.task("*", "*", token), patience=patience) for one in (name, other))
        )
        # It was moved back, and became a dead letter or was retried there.
        if stale is not None and names.passing(stale.subject):
            await stream.delete(other, stale.seq, patience=patience)
        if former is not None and not names.passing(former.subject):
            return  # it is already committed
        last = former.seq if former and names.place(former.subject)[1] == parcel.priority else 0
        headers = {HEADER: Facts(parcel.due, parcel.attempts, parcel.crashes, parcel.reason).dump()}
        with contextlib.suppress(Conflict):  # another process has just staged it
            replaces = (names.task("*", rank, token), last)
            await stream.publish(name, subject, parcel.data, headers, replaces=replaces, patience=patience)
            if former is not None:
                await stream.delete(name, former.seq, patience=patience)

    def confirm(self, parcels: Sequence[Parcel]) -> None:
        self._place.call(lambda stream: self._confirm_all(stream, parcels))

    async def _confirm_all(self, stream: JetStream, parcels: Sequence[Parcel]) -> None:
        for rank in {rank_part(one.priority) for one in parcels}:
            await self._place.ensure_rank(stream, rank)
        found = await _each(self._accepted(stream, parcel) for parcel in parcels)
        # Requests started in order on one connection are stored in order.
        await _each(self._confirm(stream, stored) for stored in found if stored is not None)

    async def _accepted(self, stream: JetStream, parcel: Parcel) -> Stored | None:
        names = self._names
        name = names.stream(_KINDS[parcel.state])
        return await stream.last(name, names.task("*", "*", _token(parcel)), patience=self._place.patience)

    async def _confirm(self, stream: JetStream, stored: Stored) -> None:
        kind, _, _ = self._names.place(stored.subject)
        if not self._names.passing(stored.subject):
            await self._tasks.drop_former(stream, stored)  # an earlier commit was interrupted
        elif kind == ARRIVING:
            await self._tasks.anew(stream, stored, stored.facts)
        else:
            await self._tasks.turn(stream, stored, kind.removeprefix(f"{ARRIVING}-"), stored.facts)


def _token(parcel: Parcel) -> str:
    """Return the token of a moved task. No task sent to this queue has the same token."""
    return f"moved-{parcel.key}"


def _envelopes(parcel: Parcel) -> list[Envelope]:
    try:
        return [wire.load(parcel.data, None)]
    except Damaged:
        return []  # no worker will decode it


def _found(parcels: Iterable[Parcel | None]) -> list[Parcel]:
    return [parcel for parcel in parcels if parcel is not None]


async def _each(works: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Run coroutines concurrently. If one fails, wait for the others too, so that none continues after the call."""
    results = await asyncio.gather(*works, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return results  # type: ignore[return-value]
