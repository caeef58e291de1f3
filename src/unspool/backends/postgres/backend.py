"""A queue in PostgreSQL: enqueue, claim, settle.

Enqueue is one statement, including its NOTIFY, in a transaction of its own or in the caller's. A claim begins in the
supervisor's feed, which reserves rows in batches. The worker then makes the claim with the statement that counts the
attempt, and with the task's lock, which the worker's session holds as long as it lives. No transaction stays open while
a task runs.

A finished task is settled by the statement of the next claim, so that a task costs a worker one round trip. If no claim
is expected, it is settled soon (``ends.py``). Each claim has a number, the fence, and the server refuses to settle a
task under another number. So a process that was cut off and returns after the task was given to another process is
refused. The number is random, because a counter could return to an earlier value after a crash of the server.
"""

import contextlib
import logging
import os
import struct
import threading
import time
import weakref
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import psycopg

from ... import codec, wire
from ...address import Address
from ...errors import Damaged, PayloadRefused, SpoolerUnusable, Unsigned
from ...message import (
    Ack,
    Bury,
    Claim,
    DeferOnCrash,
    Disposition,
    End,
    Entry,
    Envelope,
    Exchanged,
    Interrupted,
    Mark,
    Record,
    Refusal,
    RefusalKind,
    Release,
    Retry,
    State,
)
from ...retry import MAX_CRASHES
from ...signing import Signer
from ..base import UNNUMBERED, UNSIGNED_PICKLE, Capabilities, Clock, Feed, Settings, Summary
from . import schema
from .connection import Connector
from .content import Content
from .control import PostgresControl
from .depot import PostgresDepot
from .ends import Ends
from .exchange import Exchange
from .feed import PostgresFeed
from .history import History, storable
from .keyvalue import PostgresKeyValue
from .listing import Listing
from .names import Names
from .session import CLAIMS, Row, Session
from .sql import statement
from .sqlstate import Transient
from .within import keep_within

__all__ = ["PostgresBackend"]

_log = logging.getLogger("unspool")
_AWAY = 0.5  # seconds that a worker waits before it tries another task while the server is unreachable
_CLAIMS = b"%d" % CLAIMS
_double = struct.Struct("!d").unpack

_PUT_BACK = {"delay": None, "aside": None, "uncounted": 0, "unhandled": 0, "crashed": 0, "reason": ""}


class PostgresBackend:
    """Implement ``base.Backend`` in the schema ``unspool`` of a database, which ``unspool migrate`` creates.

    :param address: the database and the spooler in it.
    :param signer: signs tasks, and refuses unsigned ones; without it, pickles are refused.
    :param trusting: True to accept pickles without a secret key, for a server that no other user can reach.
    :param clock: the current time for tasks; None to use the server's clock.
    """

    capabilities = Capabilities(feeds=True, forks=True, remote=True, withholds=True, batches=True, records=True)

    def __init__(
        self,
        address: Address,
        settings: Settings,
        *,
        signer: Signer | None = None,
        trusting: bool = False,
        clock: Clock | None = None,
    ) -> None:
        self.name = address.name
        self._signer = signer
        self._pickles = trusting or signer is not None
        self._clock = clock
        self._durable = settings.durability == "full"
        self._max_size = int(settings.max_task_size * (1 << 20))
        self._names = Names(address)
        self._connector = Connector(address.name, address.url)
        self._session = Session(self._connector, self._names)
        self._history = History(self._connector, self._names, settings.history_limit, settings.history_age, self._now)
        self._listing = Listing(self._connector, self._names, self._now)
        self.control = PostgresControl(self._connector, self._session, self._names, settings.period)
        self.kv = PostgresKeyValue(self._connector, self._session, self._names, self._now, self._local)
        self.depot = PostgresDepot(
            self._connector, self._session, self._names, self._check, self._now, self._local, self._changed
        )
        self._feeds: weakref.WeakSet[PostgresFeed] = weakref.WeakSet()
        self._ends = Ends(self._session, self._names, self._history, self.control, self._now)
        content = Content(self._session, self._names, signer, self._pickles, self._max_size)
        self._exchange = Exchange(
            self._session, self._names, self._history, self.control, content, self._now, self._local
        )
        self._ahead: dict[str, Row] = {}  # prefetched claims that have not started
        self._ahead_of = 0  # the session of the prefetched claims

    def _now(self) -> float | None:
        """Return the current time for statements; None to use the server's clock."""
        return self._clock() if self._clock else None

    def _local(self) -> float:
        return (self._clock or time.time)()

    # --- producers

    def exists(self) -> bool:
        with self._connector.lend():
            return True

    def send(self, envelopes: Sequence[Envelope]) -> list[str]:
        if not envelopes:
            return []
        text, values = statement("send"), self._to_send(envelopes)
        if len(envelopes) == 1:
            text = statement("send_one")
            values = {**values, "data": values["data"][0], "rank": values["ranks"][0], "due": values["dues"][0]}
        with self._connector.lend() as connection:
            prepare = connection.prepare_threshold is not None
            if self._durable:
                row = connection.execute(text, values, prepare=prepare, binary=True).fetchone()
            else:
                with connection.transaction():
                    connection.execute("SET LOCAL synchronous_commit = off")
                    row = connection.execute(text, values, prepare=prepare, binary=True).fetchone()
        return self._sent(row)

    def send_within(self, connection: Any, envelopes: Sequence[Envelope]) -> list[str]:
        """Store the tasks in the open transaction of the caller's connection. They exist once it commits.

        :param connection: of psycopg (3 or 2), SQLAlchemy (also a Session) or Django, to this spooler's database.
        :raises OptionRefused: if it is another kind of connection.
        :raises SpoolerUnusable: if the database has no schema ``unspool``.
        """
        return self._sent(keep_within(connection, self.name, self._to_send(envelopes))) if envelopes else []

    def _to_send(self, envelopes: Sequence[Envelope]) -> Mapping[str, Any]:
        self._check(envelopes)
        return {
            "clock": self._now(),
            "local": self._local(),
            "spooler": self._names.spooler,
            "channel": self._names.channel,
            "data": [wire.dump(envelope.vars, envelope.body, self._signer) for envelope in envelopes],
            "ranks": [UNNUMBERED if envelope.priority is None else envelope.priority for envelope in envelopes],
            "dues": [envelope.due for envelope in envelopes],
        }

    def _check(self, envelopes: Sequence[Envelope]) -> None:
        if not self._pickles and any(map(codec.is_pickled, envelopes)):
            raise PayloadRefused(f"spooler {self.name} does not take this payload: {UNSIGNED_PICKLE}")

    def _changed(self) -> None:
        for feed in self._feeds:
            feed.changed()

    def _sent(self, row: Any) -> list[str]:
        self._changed()
        return [self._names.id(number) for number in row[0]]

    # --- workers

    def feed(self) -> Feed:
        feed = PostgresFeed(self._session, self._names, self.control, self._history, self._clock)
        self._feeds.add(feed)
        return feed

    def exchange(self, ends: Sequence[End], refs: Sequence[str]) -> Exchanged:
        return self._exchange.exchange(ends, refs)

    def mark(self, ref: str, mark: Mark) -> None:
        values: dict[str, Any] = {"id": self._names.number(ref), "spooler": self._names.spooler}
        try:
            match mark:
                case DeferOnCrash(until):
                    values |= {"clock": self._now(), "delay": until - self._local()}
                    self._session.execute("put_off", values)
                case Interrupted():
                    self._session.execute("excuse", values)
        except SpoolerUnusable as error:  # otherwise the task runs again sooner, or a crash counts
            _log.warning("%s", error)

    def claim(self, ref: str) -> Claim | Refusal:
        number = self._names.number(ref)
        if number is None:
            return Refusal(RefusalKind.GONE)
        self._ends.claimer = threading.get_ident()
        row = self._ahead.pop(ref, None)
        if row is None and number in self._session.tasks:
            return Refusal(RefusalKind.BUSY)
        claims, claim = self.control.claims, None
        claims.add(number)  # added first, so that the supervisor knows each task that is started
        try:
            claim = self._claim(ref, number, row)
        finally:
            if not isinstance(claim, Claim):
                claims.discard(number)
        return claim

    def _claim(self, ref: str, number: int, row: Row | None) -> Claim | Refusal:
        if row is not None:
            if self._session.number == self._ahead_of and not self._session.has_ended():
                return self._begun(ref, number, row)
            self._session.tasks.pop(number, None)  # another worker may have it by now
            self._insist("back_out", {"id": number, "fence": _number(row[3])})
        done = self._ends.take()
        last = done.pop() if done else None
        try:
            self._ends.settle(done)
            worker = self._session.known_key("worker") or self._session.key("claim")
            gone, *begun = self._session.next(self._ends.values_of_next(number, worker, last))
        except SpoolerUnusable as error:
            self._ends.keep([last] if last else [])
            if not isinstance(error, Transient):
                raise
            time.sleep(_AWAY)
            return Refusal(RefusalKind.UNUSABLE, self._local() + _AWAY, str(error))
        if last:
            self._ends.settled([last], () if gone is None else (int(last[0].ref),))
        return self._refusal(number) if begun[1] is None else self._begun(ref, number, begun)

    def claim_ahead(self, refs: Sequence[str]) -> Mapping[str, int]:
        numbers = [number for ref in refs if (number := self._names.number(ref)) is not None]
        fences: dict[str, int] = {}
        with contextlib.suppress(Transient):  # ``claim`` raises it too
            for number, row in self._begin(numbers):
                self._ahead[str(number)] = row
                fences[str(number)] = _number(row[3])
                self._session.tasks[number] = CLAIMS + fences[str(number)]
            self._ahead_of = self._session.number
        self._ends.hear()
        return fences

    def _begin(self, numbers: Sequence[int]) -> list[tuple[int, Row]]:
        clock, known, owner = self._now(), self._session.tasks, self._session.owner
        worker = self._session.known_key("worker") or self._session.key("claim")
        self._ends.post(self._ends.take())
        rows = self._session.begin([
            None if clock is None else repr(clock).encode(),
            _CLAIMS,
            b"{%b}" % b",".join(b"%d" % number for number in numbers if number not in known),
            self._names.spooler.encode(),
            b"%d" % worker,
            None if owner is None else b"%d" % owner,
        ])  # fmt: skip
        return [(_number(row[0]), row[1:]) for row in rows]

    def forget(self) -> None:
        if self._ahead:
            locks = [self._session.tasks.pop(int(ref)) for ref in self._ahead if int(ref) in self._session.tasks]
            self._ahead.clear()
            with contextlib.suppress(SpoolerUnusable):  # no process waits for the locks of void claims
                self._session.execute("forget", {"locks": locks})

    def _begun(self, ref: str, number: int, row: Sequence[Any]) -> Claim | Refusal:
        data, *numbers, due_bytes, locked = row
        attempts, crashes, fence, rank, unhandled = map(_number, numbers)
        (due,) = _double(due_bytes)
        if locked == b"\0":
            self._ends.let_go(number)
            self._insist("back_out", {"id": number, "fence": fence})
            return Refusal(RefusalKind.BUSY)
        self._session.tasks[number] = CLAIMS + fence
        priority = None if rank == UNNUMBERED else rank
        try:
            if data is None:
                data = self._read(number, fence, whole=crashes < MAX_CRASHES)
            if crashes >= MAX_CRASHES:  # the task only becomes a dead letter
                return Claim(self._names.id(number), ref, wire.load_vars(data), attempts, crashes, fence)
            envelope = wire.load(data, self._signer, priority=priority, due=due)
            if not self._pickles and codec.is_pickled(envelope):
                raise Unsigned(UNSIGNED_PICKLE)
        except Damaged as error:
            broken = Claim(
                self._names.id(number), ref, Envelope({}, b"", priority, due, False), attempts, crashes, fence
            )
            self.settle(broken, Bury(str(error), corrupt=True, begun=False))
            return Refusal(RefusalKind.CORRUPT, None, str(error))
        except (MemoryError, Transient) as error:
            return self._unread(number, fence, error)
        return Claim(self._names.id(number), ref, envelope, attempts, crashes, fence, unhandled)

    def _read(self, number: int, fence: int, *, whole: bool) -> bytes:
        """Return the content of a large task, or only its variables without ``whole``.

        :raises Damaged: if it is too large.
        :raises Transient: if the server cannot return it now.
        """
        most = self._max_size + wire.HEADER_SIZE + wire.MAX_VARS
        values = {"id": number, "fence": fence, "most": most, "whole": whole, "head": wire.HEADER_SIZE + wire.MAX_VARS}
        row = self._session.execute("read", values)
        if row is None:
            raise Transient(f"task {self._names.id(number)} was given to another worker while it was read")
        size, data = row
        if data is None:
            raise Damaged(
                f"{size} bytes, and max_task_size allows {self._max_size}; raise UNSPOOL_MAX_TASK_SIZE, then retry the "
                "task"
            )
        return bytes(data)

    def _unread(self, number: int, fence: int, error: Exception) -> Refusal:
        """Put back a task that could not be read.

        :raises SpoolerUnusable: if this process does not have enough memory. This counts as a crash, like a kill for
            lack of memory. A new worker may have more memory.
        """
        crashed = isinstance(error, MemoryError) or "out of memory" in str(error)
        values = _PUT_BACK | {"uncounted": int(not crashed), "crashed": int(crashed), "id": number, "fence": fence}
        values |= {"clock": self._now(), "claims": CLAIMS} | self._names.values() | self._history.one(None)
        self._insist("put_back", values)
        self._ends.let_go(number)
        if crashed:
            id = self._names.id(number)
            raise SpoolerUnusable(f"task {id} does not fit into the memory of process {os.getpid()}") from None
        return Refusal(RefusalKind.UNUSABLE, self._local() + _AWAY, str(error))

    def _refusal(self, number: int) -> Refusal:
        row = self._insist("refusal", {"id": number, "spooler": self._names.spooler, "clock": self._now()})
        if row is None or row[0] >= 2:
            return Refusal(RefusalKind.GONE)
        _, begun, due, now = row
        if begun or due <= now:
            return Refusal(RefusalKind.BUSY)
        return Refusal(RefusalKind.EARLY, self._local() + due - now)

    def settle(self, claim: Claim, disposition: Disposition, record: Record | None = None) -> float | None:
        if isinstance(disposition, Ack):
            if self._ahead and threading.get_ident() == self._ends.claimer:  # other tasks start without a round trip
                self._ends.post([(claim, record)])
            else:
                self._ends.add((claim, record))
            return None
        number = self._names.number(claim.ref)
        now = self._local()
        values: dict[str, Any] = dict(_PUT_BACK)
        match disposition:
            case Retry(at):
                unhandled = int(not disposition.begun)
                values |= {"delay": at - now, "uncounted": unhandled, "unhandled": unhandled}
                until: float | None = at
            case Release():
                values["uncounted"] = 1
                until = now
            case Bury(reason, corrupt, begun):
                values |= {"aside": 3 if corrupt else 2, "uncounted": int(not begun), "reason": storable(reason)}
                until = None
        values |= {"id": number, "fence": claim.token, "clock": self._now(), "claims": CLAIMS}
        values |= self._names.values() | self._history.one(record)
        row = self._insist("put_back", values)
        self._ends.let_go(number or 0)
        if row is None:
            self._ends.refuse(claim)
            return None
        return until

    def put_off(self, ref: str, until: float) -> None:
        values = {"id": self._names.number(ref), "spooler": self._names.spooler, "clock": self._now()}
        try:
            self._session.execute("put_off", values | {"delay": until - self._local()})
        except SpoolerUnusable as error:  # otherwise it runs again sooner
            _log.warning("%s", error)

    def excuse(self, ref: str) -> None:
        try:
            self._session.execute("excuse", {"id": self._names.number(ref), "spooler": self._names.spooler})
        except SpoolerUnusable as error:  # otherwise the crash counts
            _log.warning("%s", error)

    def flush(self, *, wait: bool = True) -> None:
        self._ends.flush() if wait else self._ends.flush_soon()

    def _insist(self, name: str, values: Mapping[str, Any]) -> Any:
        return self._session.insist(lambda: self._session.execute(name, values))

    # --- inspection

    def migrate(self) -> tuple[int, int]:
        connection = self._connector.open(check=False)
        try:
            return schema.migrate(connection)
        except psycopg.Error as error:
            raise self._connector.unusable(error) from error
        finally:
            connection.close()

    def entries(self, states: frozenset[State] = frozenset(State), limit: int | None = None) -> Iterator[Entry]:
        return self._listing.entries(states, limit)

    def counts(self) -> dict[State, int]:
        return self._listing.summary().counts

    def summary(self) -> Summary:
        return self._listing.summary()

    def find(self, id: str) -> Entry | None:
        return self._listing.find(id)

    def short(self, id: str) -> str:
        return id.rpartition("/")[2]

    def matching(self, piece: str, *, ended: bool = False) -> list[str]:
        return []  # a part of a number is another task's number; ``find`` and ``history`` take whole numbers

    def read(self, id: str) -> tuple[Entry, Envelope | None] | None:
        return self._listing.read(id)

    def retry(self, id: str) -> str:
        return self._listing.retry(id)

    def remove(self, id: str) -> None:
        self._listing.remove(id)

    def record(self, records: Sequence[Record]) -> None:
        self._history.add(records)

    def history(self, *, id: str | None = None, limit: int = 100) -> list[Record]:
        return self._history.latest(id, limit)

    def close(self) -> None:
        self.kv.close()
        self._session.close()
        self._connector.close()


def _number(value: bytes | None) -> int:
    """Return an integer in the server's binary form."""
    return int.from_bytes(value or b"", signed=True)
