"""A queue in PostgreSQL: enqueue, claim, settle.

Enqueue is one statement, including its NOTIFY, in a transaction of its own or in the caller's. A claim begins in the
supervisor's feed, which reserves rows in batches. The worker then makes several claims, and settles its ended runs, by
one transaction (``exchange.py``). No transaction stays open while a task runs.

Each claim has a number, the fence. The server refuses to settle a task under another number, for example for a process
that was cut off, if the task was given to another process meanwhile. The number is random, because a counter could
return to an earlier value after a crash of the server.
"""

import logging
import time
import weakref
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import psycopg

from ...address import Address
from ...errors import SpoolerUnusable
from ...finding import OK, Finding
from ...message import DeferOnCrash, Duplicate, End, Envelope, Exchanged, Interrupted, Mark, Record, Unique
from ..base import UNNUMBERED, Capabilities, Clock, Feed, Settings, Switches, WorkerInfo
from ..change import Change
from ..page import Counts, Page, Query, RunQuery
from ..registration import Registration
from . import schema
from .connection import Connector
from .content import Content
from .depot import PostgresDepot
from .exchange import Exchange
from .feed import PostgresFeed
from .history import History
from .keyvalue import PostgresKeyValue
from .listing import Listing
from .names import Names
from .registrations import Registrations
from .session import Session
from .sql import statement
from .within import keep_within

__all__ = ["PostgresBackend"]

_log = logging.getLogger("unspool")


class PostgresBackend:
    """Implement ``base.Backend`` in the schema ``unspool`` of a database, which ``unspool migrate`` creates.

    :param address: the database and the spooler in it.
    :param clock: the current time for tasks; None to use the server's clock.
    """

    capabilities = Capabilities(
        feeds=True, forks=True, remote=True, withholds=True, batches=True, records=True, unique=True
    )

    def __init__(
        self,
        address: Address,
        settings: Settings,
        *,
        clock: Clock | None = None,
    ) -> None:
        self.name = address.name
        self._clock = clock
        self._durable = settings.durability == "full"
        self._names = Names(address)
        self._connector = Connector(address.name, address.url)
        self._session = Session(self._connector, self._names)
        self._history = History(self._connector, self._names, settings.history_limit, settings.history_age, self._now)
        self._listing = Listing(self._connector, self._names, self._now)
        self.registrations = Registrations(self._connector, self._session, self._names)
        self._period = settings.period
        self.kv = PostgresKeyValue(self._connector, self._session, self._names, self._now, self._local)
        self.depot = PostgresDepot(self._connector, self._session, self._names, self._now, self._local, self._changed)
        self._feeds: weakref.WeakSet[PostgresFeed] = weakref.WeakSet()
        content = Content(self._session, self._names, int(settings.max_task_size * (1 << 20)))
        self._exchange = Exchange(
            self._session, self._names, self._history, self.registrations, content, self._now, self._local
        )

    @property
    def connector(self) -> Connector:
        """Return the connector, which opens and lends connections to the database."""
        return self._connector

    @property
    def session(self) -> Session:
        """Return the session of this process, which holds its claims."""
        return self._session

    def _now(self) -> float | None:
        """Return the current time for statements; None to use the server's clock."""
        return self._clock() if self._clock else None

    def _local(self) -> float:
        return (self._clock or time.time)()

    # --- producers

    def send(self, envelopes: Sequence[Envelope]) -> list[str]:
        if not envelopes:
            return []
        if any(envelope.unique for envelope in envelopes):
            return self._send_each(envelopes)
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

    def _send_each(self, envelopes: Sequence[Envelope]) -> list[str]:
        """Send tasks of which some have a key, each in a transaction of its own, so that no two senders wait for each
        other's keys."""
        ids: list[str] = []
        for envelope in envelopes:
            try:
                unique = envelope.unique
                ids += [self._send_unique(envelope, unique)] if unique else self.send([envelope])
            except SpoolerUnusable as error:
                error.sent = tuple(ids)
                raise
        return ids

    def _send_unique(self, envelope: Envelope, unique: Unique) -> str:
        with self._connector.lend() as connection, connection.transaction():
            if not self._durable:
                connection.execute("SET LOCAL synchronous_commit = off")
            row = connection.execute(statement("send_unique"), self._unique(envelope, unique), binary=True).fetchone()
        return self._sent_unique(row)

    def _unique(self, envelope: Envelope, unique: Unique) -> dict[str, Any]:
        """Return the values of ``send_unique.sql``."""
        values = self._to_send([envelope])
        more = {"key": unique.key, "start": unique.start, "until": unique.end}
        return {**values, "data": values["data"][0], "rank": values["ranks"][0], "due": values["dues"][0], **more}

    def send_within(self, connection: Any, envelopes: Sequence[Envelope]) -> list[str]:
        """Store the tasks in the open transaction of the caller's connection. They exist once it commits.

        :param connection: of psycopg (3 or 2), SQLAlchemy (also a Session) or Django, to this spooler's database.
        :raises OptionRefused: if it is another kind of connection.
        :raises SpoolerUnusable: if the database has no schema ``unspool``.
        """
        if not envelopes:
            return []
        if not any(envelope.unique for envelope in envelopes):
            return self._sent(keep_within(connection, self.name, self._to_send(envelopes)))
        ids: list[str] = []
        for envelope in envelopes:
            if (unique := envelope.unique) is None:
                ids += self.send_within(connection, [envelope])
            else:
                row = keep_within(connection, self.name, self._unique(envelope, unique), "send_unique")
                ids.append(self._sent_unique(row))
        return ids

    def _to_send(self, envelopes: Sequence[Envelope]) -> Mapping[str, Any]:
        return {
            "clock": self._now(),
            "local": self._local(),
            "spooler": self._names.spooler,
            "channel": self._names.channel,
            "data": [envelope.data for envelope in envelopes],
            "ranks": [UNNUMBERED if envelope.priority is None else envelope.priority for envelope in envelopes],
            "dues": [envelope.due for envelope in envelopes],
        }

    def _changed(self) -> None:
        for feed in self._feeds:
            feed.changed()

    def _sent(self, row: Any) -> list[str]:
        self._changed()
        return [self._names.id(number) for number in row[0]]

    def _sent_unique(self, row: Any) -> str:
        (id,) = self._sent(row)
        return id if row[1] else Duplicate(id)

    # --- workers

    def feed(self) -> Feed:
        feed = PostgresFeed(self._session, self._names, self.registrations, self._history, self._clock, self._period)
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

    def switch(self, *, paused: bool | None = None, period: float | None = None) -> Switches:
        name, values = "switches", self._names.values()
        if paused is not None or period is not None:
            name, values = "switch", {**values, "paused": paused, "period": period}
        with self._connector.lend() as connection:
            row = connection.execute(statement(name), values, binary=True).fetchone()
        return Switches(row[0], row[1] or self._period) if row else Switches(False, self._period)

    def register(self, role: str) -> Registration:
        return self.registrations.register(role)

    def live(self) -> list[WorkerInfo]:
        return self.registrations.live()

    # --- inspection

    def page(self, query: Query, after: str = "", limit: int = 100) -> Page:
        if isinstance(query, RunQuery):
            return self._history.page(query, after, limit)
        return self._listing.page(query, after, limit)

    def counts(self, by: Literal["state", "label"] = "state") -> Counts:
        return self._listing.counts(by)

    def change(self, id: str, change: Change) -> str:
        return self._listing.change(id, change)

    def check(self, *, prepare: bool = False) -> Iterator[Finding]:
        if not prepare:
            with self._connector.lend():
                yield Finding(self.name, OK, "can be reached and used")
            return
        connection = self._connector.open(check=False)
        try:
            before, after = schema.migrate(connection)
        except psycopg.Error as error:
            raise self._connector.unusable(error) from error
        finally:
            connection.close()
        done = f"has version {after}" if before == after else f"now has version {after}"
        had = f", and had {before}" if 0 < before < after else ""
        yield Finding(self.name, OK, f"the schema of {self.name} {done}{had}")

    def record(self, records: Sequence[Record], *, journal: bool = False) -> None:
        self._history.add(records)

    def has_lost_descriptors(self) -> bool:
        return False

    def close(self) -> None:
        self.kv.close()
        self._session.close()
        self._connector.close()
