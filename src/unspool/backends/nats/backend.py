"""Tasks in NATS JetStream as a backend: enqueue, claim, settle.

Enqueue. A task is one message with a subject of its own. It is published with a message id, so a publish that is
repeated because no answer came is stored once. The answer comes when a quorum has the message.

Claim. The server's consumer hands the header of a message to one supervisor, which passes its token to a worker. This
is a hint: the worker writes a record of its run, on the condition that no other process has written one, and reads the
task from the stream's leader. A record whose process is dead shows a crash. The crash is counted by rewriting the task,
which delivers it again as a new message.

Settle. The task's sequence number is the fence. A finished task is deleted by that number. A retry and a counted crash
rewrite the task on the condition that the message is the last of its subject. So a task that was taken over has another
number, and the verdict of a process that was cut off has no effect.
"""

import contextlib
import time
from collections.abc import Iterator, Sequence
from typing import Literal

from ... import wire
from ...address import Address
from ...errors import Damaged, PayloadRefused, SpoolerUnusable
from ...finding import OK, Finding
from ...message import (
    DeferOnCrash,
    Duplicate,
    End,
    Envelope,
    Exchanged,
    Mark,
    Record,
    Unique,
)
from ..base import Capabilities, Clock, Feed, Settings, Switches, WorkerInfo
from ..change import Change
from ..page import Counts, Page, Query, RunQuery
from ..registration import Registration
from .changing import Changing
from .cluster import Cluster
from .depot import NatsDepot
from .exchange import Exchange
from .feed import NatsFeed
from .history import History
from .jetstream import JetStream
from .keyvalue import NatsKeyValue
from .listing import Listing
from .names import new_token, rank_part
from .registrations import Registrations
from .requests import Conflict, Request
from .stored import ROOM, Facts, Stored
from .switches import NatsSwitches
from .tasks import Tasks
from .unique import Keys

__all__ = ["NatsBackend"]


class NatsBackend:
    """Tasks in a NATS cluster.

    :param address: the servers, the spooler and the connection parameters.
    :param schedules: False if feeds, not the server, hold deferred tasks back.
    :param hold: seconds before its due time from which a feed keeps a task. A task due later is returned to the server.
    :param look: seconds between two checks by a feed that the queue is empty.
    :param window: the number of tasks that a feed holds ready while workers take them.
    :raises OptionRefused: for an unknown parameter in the URL.
    """

    capabilities = Capabilities(feeds=True, forks=True, remote=True, withholds=True, batches=True, unique=True)

    def __init__(
        self,
        address: Address,
        settings: Settings,
        *,
        schedules: bool = True,
        hold: float = 30.0,
        look: float = 0.05,
        window: int = 16,
        patience: float = 5.0,
        clock: Clock = time.time,
    ) -> None:
        limit, age = settings.history_limit, settings.history_age
        self._place = Cluster(address, patience=patience, history_limit=limit, history_age=age)
        self.name = self._place.name
        self._names = self._place.names
        self._max_size = int(settings.max_task_size * (1 << 20))
        self._clock = clock
        self._tasks = Tasks(self._place, clock, schedules)
        self._keys = Keys(self._names, self._tasks, clock)
        self._changing = Changing(self._place, self._tasks, self._keys, clock)
        self._hold = hold
        self._look, self._window = look, window
        self._switches = NatsSwitches(self._place, settings.period)
        self._registrations = Registrations(self._place)
        self.kv = NatsKeyValue(self._place, self._registrations, clock)
        self._exchange = Exchange(self._place, self._tasks, self._registrations, self._envelope, clock)
        self.depot = NatsDepot(self._place, self._tasks, self._registrations, self._check_size)
        self._listing = Listing(self._place, clock)
        self._history = History(self._place)

    @property
    def cluster(self) -> Cluster:
        """Return the servers and streams of the queue."""
        return self._place

    # --- producers

    def send(self, envelopes: Sequence[Envelope]) -> list[str]:
        if not envelopes:
            return []
        if any(envelope.unique for envelope in envelopes):
            return self._send_each(envelopes)
        now, sent, ids = self._clock(), list[Request](), list[str]()
        with self._place.stream() as stream:
            for envelope in envelopes:
                self._check_size(stream, envelope.data)
                token = new_token(now)
                facts, fresh = Facts(now if envelope.due is None else envelope.due), envelope.due is None
                sent.append(self._tasks.new(rank_part(envelope.priority), token, facts, envelope.data, fresh=fresh))
                ids.append(f"{self.name}/{token}")
            for rank in {rank_part(envelope.priority) for envelope in envelopes}:
                self._place.ensure_rank(stream, rank)
            try:
                stream.publish_all(sent)
            except SpoolerUnusable as failure:
                stored = {f"{self.name}/{token}" for token in failure.sent}
                failure.sent = tuple(id for id in ids if id in stored)
                raise
        return ids

    def _send_each(self, envelopes: Sequence[Envelope]) -> list[str]:
        """Send tasks of which some have a key, one after the other."""
        ids: list[str] = []
        for envelope in envelopes:
            unique = envelope.unique
            try:
                ids += [self._send_unique(envelope, unique)] if unique else self.send([envelope])
            except SpoolerUnusable as failure:
                failure.sent = tuple(ids)
                raise
        return ids

    def _send_unique(self, envelope: Envelope, unique: Unique) -> str:
        now, rank = self._clock(), rank_part(envelope.priority)
        due, fresh = now if envelope.due is None else envelope.due, envelope.due is None
        token, facts = new_token(now, unique.key), Facts(due, key_start=unique.start, key_until=unique.end)
        with self._place.stream() as stream:
            self._check_size(stream, envelope.data)
            self._place.ensure_rank(stream, rank)
            condition = self._names.keyed(unique.key), 0  # usually no task has the key
            while True:
                message = self._tasks.new(rank, token, facts, envelope.data, fresh=fresh)
                try:
                    stream.publish(self._names.tasks, *message, replaces=condition)
                except Conflict as conflict:
                    # An earlier attempt without an answer may have stored the task, which may even have ended since.
                    if conflict.unsure and any(self._tasks.look(stream, token)):
                        break
                else:
                    break
                holder, condition = self._keys.holder(stream, unique.key)
                if holder is not None:
                    return Duplicate(f"{self.name}/{holder}")
        return f"{self.name}/{token}"

    @staticmethod
    def _check_size(stream: JetStream, data: bytes) -> None:
        room = stream.open().max_payload - ROOM
        if len(data) > room:
            raise PayloadRefused(
                f"the task has {len(data)} bytes, and {stream.shown} accepts at most {room} besides the headers; "
                "raise max_payload there, or pass large data by a path or a key"
            )

    # --- workers

    def feed(self) -> Feed:
        tasks, window = self._tasks, self._window
        return NatsFeed(
            self._place, self._switches, self._registrations, tasks, self._clock,
            hold=self._hold, look=self._look, window=window,
        )  # fmt: skip

    def exchange(self, ends: Sequence[End], refs: Sequence[str]) -> Exchanged:
        return self._exchange.exchange(ends, refs)

    def switch(self, *, paused: bool | None = None, period: float | None = None) -> Switches:
        return self._switches.switch(paused=paused, period=period)

    def register(self, role: str) -> Registration:
        return self._registrations.register(role)

    def live(self) -> list[WorkerInfo]:
        return self._registrations.live()

    def mark(self, ref: str, mark: Mark) -> None:
        changes = {"until": mark.until} if isinstance(mark, DeferOnCrash) else {"excused": True}
        with contextlib.suppress(SpoolerUnusable):  # otherwise it may run again a little early, or the crash counts
            self._place.call(lambda stream: self._tasks.mark(stream, ref, **changes))

    def _envelope(self, stored: Stored) -> Envelope:
        """Return the envelope of a message.

        :raises Damaged: if it is too large.
        """
        if len(stored.data) > self._max_size + wire.HEADER_SIZE + wire.MAX_VARS:
            raise Damaged(
                f"{len(stored.data)} bytes, and max_task_size allows {self._max_size}; raise UNSPOOL_MAX_TASK_SIZE, "
                "then retry the task"
            )
        _, priority, _ = self._names.place(stored.subject)
        return Envelope(stored.data, priority, stored.facts.due)

    # --- inspection

    def page(self, query: Query, after: str = "", limit: int = 100) -> Page:
        if isinstance(query, RunQuery):
            return self._history.page(query, after, limit)
        return self._listing.page(query, after, limit)

    def counts(self, by: Literal["state", "label"] = "state") -> Counts:
        return self._listing.counts(by)

    def change(self, id: str, change: Change) -> str:
        return self._place.call(lambda stream: self._changing.change(stream, id, change))

    def check(self, *, prepare: bool = False) -> Iterator[Finding]:
        if not prepare:
            with self._place.stream():  # creates the streams if they are missing
                pass
            yield Finding(self.name, OK, "can be reached and used")

    def record(self, records: Sequence[Record], *, journal: bool = False) -> None:
        self._history.add(records)

    def has_lost_descriptors(self) -> bool:
        return False

    def close(self) -> None:
        self.depot.release()
        self.kv.close()
        self._registrations.close()
        self._place.close()
