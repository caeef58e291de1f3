"""Transfer of tasks from and to a NATS queue.

A task in transfer is a message under a subject that no consumer delivers. Each step rewrites it on the condition that
it is still the last message of its task. Its sequence number is therefore the fence, and a carrier that was cut off and
returns late changes nothing. The header names the carrier.
"""

import contextlib
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

from ...errors import SpoolerUnusable
from ...message import Bury, State
from ..depot import Parcel
from . import runs
from .cluster import Cluster
from .jetstream import JetStream
from .names import ARRIVING, CORRUPT, DEAD, LATER, LEAVING, SOON, on_the_way, rank_part
from .registrations import Registrations
from .requests import Conflict
from .runs import Process
from .stored import HEADER, Facts, Passage, Stored
from .tasks import Tasks
from .unique import unique_of

__all__ = ["NatsDepot"]

T = TypeVar("T")
R = TypeVar("R")

_AT_ONCE = 8
_BATCH = 50
_MOST = 1 << 25  # maximum bytes of tasks held at once, not counting the last batch
_carried: set[tuple[str, str]] = set()  # the tasks in transfer by this process
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
        registrations: Registrations,
        fits: Callable[[JetStream, bytes], None],
    ) -> None:
        self._place = place
        self._names = place.names
        self._tasks = tasks
        self._registrations = registrations
        self._fits = fits
        self._carried: dict[str, Stored] = {}

    # --- the source

    def leave(self, ids: Iterable[str]) -> list[Parcel]:
        parcels: list[Parcel] = []
        tokens = (token for id in ids if (token := self._place.token(id)) is not None)
        while sum(len(one.data) for one in parcels) < _MOST and (some := list(islice(tokens, _BATCH))):
            self._place.call(self._registrations.announce)
            parcels += _found(self._each(self._leave, dict.fromkeys(some)))
        return parcels

    def _leave(self, stream: JetStream, token: str) -> Parcel | None:
        names = self._names
        stored, run = self._tasks.look(stream, token)
        if stored is None:
            stored = self._tasks.last(stream, names.aside, token, run)
        if stored is None or names.passing(stored.subject):
            return None
        self._tasks.drop_former(stream, stored)
        kind, priority, _ = names.place(stored.subject)
        if kind not in (DEAD, CORRUPT):
            if run is not None and run.is_of(stored):
                if runs.is_held(stream, names, run):
                    return None
                if run.process != runs.me():
                    counted = self._tasks.count_crash(stream, stored, run)
                    return self._leave(stream, token) if counted else None
            if kind == LATER:  # otherwise the server could release it beside the staged copy after a kill
                with contextlib.suppress(Conflict):
                    self._tasks.put(stream, rank_part(priority), token, stored.facts, stored.data, stored, SOON)
                    return self._leave(stream, token)
                return None
            try:  # the lock expires by itself, long after each process that read the task earlier has seen it
                self._tasks.lock(stream, stored, run)
            except Conflict:
                return None
        passage = Passage(os.urandom(16).hex())
        return self._write(stream, stored, on_the_way(LEAVING, kind), stored.facts, passage)

    def departures(self) -> list[Parcel]:
        return self._place.call(self._departures)

    def _departures(self, stream: JetStream) -> list[Parcel]:
        self._registrations.announce(stream)
        names, parcels = self._names, list[Parcel]()
        for kind in (on_the_way(LEAVING, kind) for kind in _KINDS.values()):
            read = stream.read(names.stream(kind), names.task(kind, "*", "*"))
            parcels += _found([self._take(stream, stored) for stored in read])
        return parcels

    def _take(self, stream: JetStream, stored: Stored) -> Parcel | None:
        """Take over the transfer of a task whose carrier has ended."""
        names, facts = self._names, stored.facts
        kind, _, token = names.place(stored.subject)
        run = self._tasks.run_of(stream, token)
        if run is not None and run.voids(stored):
            return None  # the transfer is complete, and a server has restored the message
        passage = facts.passage or Passage(os.urandom(16).hex())
        process = Process.of(passage.carrier)
        mine = process == runs.me()
        if process and ((names.root, token) in _carried if mine else runs.is_alive(stream, names, process)):
            return None
        parcel = self._write(stream, stored, kind, facts, passage)
        if parcel is not None:  # the previous carrier may have been killed before the original message was deleted
            self._tasks.drop_former(stream, parcel.token)
        return parcel

    def _write(self, stream: JetStream, stored: Stored, kind: str, facts: Facts, passage: Passage) -> Parcel | None:
        """Record the progress of a transfer and that this process carries it. Return None if the task has changed."""
        noted = facts._replace(passage=passage._replace(carrier=runs.me().key))
        _, priority, token = self._names.place(stored.subject)
        key = self._names.root, token
        _carried.add(key)  # before another thread can read the message
        seq = 0
        try:
            seq = self._tasks.turn(stream, stored, kind, noted)
        finally:
            if not seq:
                _carried.discard(key)
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
            unique_of(token, facts),
        )

    def release(self) -> None:
        carried, self._carried = self._carried, {}
        _carried.difference_update((self._names.root, token) for token in carried)
        with contextlib.suppress(SpoolerUnusable):  # otherwise they are released when this process ends
            self._each(self._free, carried.values())

    def _free(self, stream: JetStream, stored: Stored) -> None:
        facts = stored.facts
        passage = facts.passage._replace(carrier="") if facts.passage else None
        self._tasks.turn(stream, stored, self._names.place(stored.subject)[0], facts._replace(passage=passage))

    def stay(self, parcels: Sequence[Parcel], corrupt: str = "") -> None:
        self._each(lambda stream, parcel: self._stay(stream, parcel.token, corrupt), parcels)
        self._let_go(parcels)

    def _stay(self, stream: JetStream, stored: Stored, corrupt: str) -> None:
        kind = self._names.place(stored.subject)[0].removeprefix(on_the_way(LEAVING, ""))
        facts = stored.facts._replace(passage=None)
        if kind:
            kind, facts = (CORRUPT, facts._replace(reason=corrupt)) if corrupt else (kind.removeprefix("-"), facts)
            self._tasks.turn(stream, stored, kind, facts)
        elif corrupt:
            self._tasks.set_aside(stream, stored, facts, Bury(corrupt, corrupt=True), None)
        else:
            self._tasks.anew(stream, stored, facts)

    def left(self, parcels: Sequence[Parcel], destination: str) -> list[Parcel]:
        return _found(self._each(lambda stream, parcel: self._left(stream, parcel, destination), parcels))

    def _left(self, stream: JetStream, parcel: Parcel, destination: str) -> Parcel | None:
        stored: Stored = parcel.token
        kind = self._names.place(stored.subject)[0]
        return self._write(stream, stored, kind, stored.facts, Passage(parcel.key, destination))

    def gone(self, parcels: Sequence[Parcel]) -> None:
        self._each(lambda stream, parcel: self._tasks.end(stream, parcel.token, None), parcels)
        self._let_go(parcels)

    def _let_go(self, parcels: Iterable[Parcel]) -> None:
        for parcel in parcels:
            _, _, token = self._names.place(parcel.token.subject)
            self._carried.pop(token, None)
            _carried.discard((self._names.root, token))

    def _each(self, work: Callable[[JetStream, T], R], items: Iterable[T]) -> list[R]:
        """Call ``work`` with each item and a connection, several at once. If one call fails, the others end first."""
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            return list(pool.map(lambda item: self._place.call(lambda stream: work(stream, item)), items))

    # --- the destination

    @property
    def identity(self) -> str:
        return ""

    def accept(self, parcels: Sequence[Parcel]) -> None:
        with self._place.stream() as stream:
            for parcel in parcels:
                self._fits(stream, parcel.data)
        self._each(self._accept, parcels)

    def _accept(self, stream: JetStream, parcel: Parcel) -> None:
        names = self._names
        kind, rank, token = on_the_way(ARRIVING, _KINDS[parcel.state]), rank_part(parcel.priority), _token(parcel)
        name, subject = names.stream(kind), names.task(kind, rank, token)
        other = names.aside if name == names.tasks else names.tasks
        former, stale = (stream.last(one, names.task("*", "*", token)) for one in (name, other))
        # It was moved back, and became a dead letter or was retried there.
        if stale is not None and names.passing(stale.subject):
            stream.delete(other, stale.seq)
        if former is not None and not names.passing(former.subject):
            return  # it is already committed
        last = former.seq if former and names.place(former.subject)[1] == parcel.priority else 0
        facts = Facts(parcel.due, parcel.attempts, parcel.crashes, parcel.reason)
        if parcel.unique is not None:
            facts = facts._replace(key_start=parcel.unique.start, key_until=parcel.unique.end)
        headers = {HEADER: facts.dump()}
        with contextlib.suppress(Conflict):  # another process has just staged it
            replaces = (names.task("*", rank, token), last)
            stream.publish(name, subject, parcel.data, headers, replaces=replaces)
            if former is not None:
                stream.delete(name, former.seq)

    def confirm(self, parcels: Sequence[Parcel]) -> None:
        self._place.ensure_ranks({rank_part(one.priority) for one in parcels})
        found = self._each(self._accepted, parcels)
        with self._place.stream() as stream:  # one after the other, so that they keep their order
            for stored in found:
                if stored is not None:
                    self._confirm(stream, stored)

    def _accepted(self, stream: JetStream, parcel: Parcel) -> Stored | None:
        names = self._names
        name = names.stream(_KINDS[parcel.state])
        return stream.last(name, names.task("*", "*", _token(parcel)))

    def _confirm(self, stream: JetStream, stored: Stored) -> None:
        kind, _, _ = self._names.place(stored.subject)
        if not self._names.passing(stored.subject):
            self._tasks.drop_former(stream, stored)  # an earlier commit was interrupted
        elif kind == ARRIVING:
            self._tasks.anew(stream, stored, stored.facts)
        else:
            self._tasks.turn(stream, stored, kind.removeprefix(f"{ARRIVING}-"), stored.facts)


def _token(parcel: Parcel) -> str:
    """Return the token of a moved task. No task sent to this queue has the same token."""
    return f"moved-{parcel.key}_k{parcel.unique.key}" if parcel.unique else f"moved-{parcel.key}"


def _found(parcels: Iterable[Parcel | None]) -> list[Parcel]:
    return [parcel for parcel in parcels if parcel is not None]
