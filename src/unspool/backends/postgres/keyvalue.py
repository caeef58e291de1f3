"""The key-value table of a queue: rows with a version from a sequence, and NOTIFY with the key of each change.

An ephemeral item names its holder, a process that is registered with an advisory lock as all are (``session.py``). The
server releases the lock when the session ends, and so does not need to be told that a process was killed. But a session
also ends while its process lives: after a restart, a fail-over or a timeout, or by an administrator. If its items were
absent then, a restart would give every lock and every slot of a limit to a second process. So an item without its
holder's lock is judged as a task without its supervisor's (``absence.py``). On the holder's own machine, the process
itself shows whether it lives, and the item is absent as soon as the process has ended. From other machines, the item is
seen for 15 seconds after the lock is first missed, and then is absent. A process opens its session again under the same
key with its next claim, or its next use of this table, so the item needs no second put. If another process has put the
key meanwhile, the item is that process's, with another version. The judgement precedes the change, which names the
version that was judged.

A forked child has no part of its parent's session, and registers under a key of its own. Through a pooler that shares
connections among transactions, only ephemeral items are refused, because they need a session, and a wait looks once a
second instead of listening.

Each wait has a connection of its own while it lasts, so it delays neither other threads nor the session with the
claims. It listens before it reads, so no change in between is missed. The server does not notify others of the
end of a session, so a wait for an ephemeral item also looks once a second.
"""

import contextlib
import select
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import psycopg

from ...errors import SpoolerUnusable
from ..keyvalue import FOREVER, Ephemeral, Item, Life, Until, check_key, check_life, check_value
from . import schema
from .absence import GRACE
from .connection import Connection, Connector
from .machine import is_gone, lives
from .names import Names
from .session import PROCESSES, Session
from .sql import ITEMS, statement
from .sqlstate import Transient

__all__ = ["PostgresKeyValue"]

_HOLDER = "holder"
_WATCH = 1.0  # seconds between looks of a wait for what is not notified
_LONGEST_WAIT = 3600.0  # seconds; a poll takes a limited number of milliseconds
_BACK = (0.05, 1.0)  # seconds between attempts of a wait to reach a lost server: first and maximum


class _Row(NamedTuple):
    item: Item
    rest: float | None
    """The seconds after which the item is absent; None if no time is set."""
    held: bool
    """Whether the item ends with a process."""


class PostgresKeyValue:
    """Implements ``keyvalue.KeyValue`` in the table ``unspool.item``.

    A change is synced with relaxed durability too: after a crash, a version could otherwise be used a second time.

    :param now: the current time for statements; None to use the server's clock.
    :param local: the current time of this program.
    """

    def __init__(
        self,
        connector: Connector,
        session: Session,
        names: Names,
        now: Callable[[], float | None],
        local: Callable[[], float],
    ) -> None:
        self._connector = connector
        self._session = session
        self._names = names
        self._now = now
        self._local = local

    # --- keyvalue.KeyValue

    def get(self, keys: Sequence[str]) -> list[Item | None]:
        for key in keys:
            check_key(key)
        if not keys:
            return []
        with self._lent() as connection:
            found = self._read(connection, keys)
        return [found[key].item if key in found else None for key in keys]

    def put(self, key: str, value: bytes, *, expect: int | None = None, life: Life = FOREVER) -> int | None:
        check_key(key)
        check_value(value)
        check_life(life)
        holder = self._hold() if isinstance(life, Ephemeral) else None
        values = {
            "value": value,
            "until": life.time if isinstance(life, Until) else None,
            "holder": holder,
            "local": self._local(),
            "absent": expect == 0,
        }
        if expect:
            row = self._change("replace_item", key, expect, values)
            return None if row is None else int(row[0])
        with self._lent() as connection:
            while (row := self._run(connection, "put_item", key=key, **values).fetchone()) is None:
                if key in self._read(connection, [key]):  # otherwise its process has ended
                    return None
        return int(row[0])

    def drop(self, key: str, *, expect: int | None = None) -> bool:
        check_key(key)
        return self._change("drop_item", key, expect, {}) is not None

    def scan(self, prefix: str, after: str = "", limit: int = 1000) -> list[tuple[str, Item]]:
        check_key(prefix, prefix=True)
        check_key(after, prefix=True)
        found: list[tuple[str, Item]] = []
        with self._lent() as connection:
            while (left := limit - len(found)) > 0:
                page = self._run(connection, "item_keys", prefix=prefix, after=after, limit=left)
                keys = [key for (key,) in page]
                items = self._read(connection, keys)
                found += [(key, items[key].item) for key in keys if key in items]
                if len(keys) < left:
                    break
                after = keys[-1]
        return found

    def wait(self, versions: Mapping[str, int], timeout: float) -> bool:
        end, pause = time.monotonic() + timeout, _BACK[0]
        if _differ(self.get(list(versions)), versions):
            return True
        while (left := end - time.monotonic()) > 0:
            try:
                with self._lent() as connection, self._listening(connection) as heard:
                    return self._watch(connection, versions, end, heard)
            except Transient:  # the connection is lost
                time.sleep(min(pause, left))
                pause = min(pause * 2, _BACK[1])
        return _differ(self.get(list(versions)), versions)

    def close(self) -> None:
        """End the ephemeral items that were put here."""
        key = self._session.known_key(_HOLDER)
        if key is not None:
            self._session.drop(_HOLDER)
            with contextlib.suppress(SpoolerUnusable), self._lent() as connection:  # they end with the process
                self._run(connection, "end_items", ended=[key])

    # --- parts

    def _hold(self) -> int:
        """Return the key under which this process holds items. Its session exists."""
        self._session.renew()
        known = self._session.known_key(_HOLDER)
        if known is not None:
            return known
        key = self._session.key(_HOLDER)
        with self._lent() as connection:  # other processes may have left items that no process reads again
            self._read(connection, [left for (left,) in self._run(connection, "left_items")])
            self._run(connection, "end_items", ended=[])
        return key

    def _change(self, name: str, key: str, expect: int | None, values: Mapping[str, Any]) -> Any:
        """Change an item that there is. Return the row of the statement, or None if nothing was changed."""
        values = {**values, "key": key, "expect": expect, "mine": self._session.known_key(_HOLDER)}
        with self._lent() as connection:
            row = self._run(connection, name, known=False, **values).fetchone()
            if row is None:
                found = self._read(connection, [key]).get(key)  # the item of another process that is alive
                if found and found.held and expect in (None, found.item.version):
                    row = self._run(connection, name, known=True, **values).fetchone()
        return row

    def _read(self, connection: Connection, keys: Sequence[str]) -> dict[str, _Row]:
        """Return the items of these keys. Delete those of processes that have ended."""
        rows = self._run(connection, "items", keys=list(keys), grace=GRACE).fetchall()
        ended = {
            holder
            for *_, holder, missed, over, host, pid in rows
            if missed and not lives(host, pid) and (over or is_gone(host, pid))
        }
        if ended:
            self._run(connection, "end_items", ended=list(ended))
        return {
            key: _Row(Item(value, version), rest, holder is not None)
            for key, value, version, rest, holder, *_ in rows
            if holder not in ended
        }

    def _watch(self, connection: Connection, versions: Mapping[str, int], end: float, heard: set[str]) -> bool:
        """Return whether a key has another version before ``end``."""
        while True:
            heard.clear()
            rows = self._read(connection, list(versions))
            if _differ([rows[key].item if key in rows else None for key in versions], versions):
                return True
            now = time.monotonic()
            if now >= end:
                return False
            looks = [end, now + _LONGEST_WAIT, *(now + row.rest for row in rows.values() if row.rest is not None)]
            if connection.prepare_threshold is None or any(row.held for row in rows.values()):
                looks.append(now + _WATCH)
            _hear(connection, heard, versions.keys(), min(looks))

    @contextlib.contextmanager
    def _listening(self, connection: Connection) -> Iterator[set[str]]:
        """Yield a set to which the keys of changes are added while the connection is used."""
        heard: set[str] = set()
        if connection.prepare_threshold is None:  # a proxy, which may give the notifications to another client
            yield heard
            return

        def add(note: psycopg.Notify) -> None:
            heard.add(note.payload)

        connection.add_notify_handler(add)
        connection.execute(f'LISTEN "{self._names.item_channel}"')
        try:
            yield heard
        finally:
            if not connection.closed:
                connection.execute("UNLISTEN *")
            connection.remove_notify_handler(add)

    @contextlib.contextmanager
    def _lent(self) -> Iterator[Connection]:
        """Lend a connection. The session of a process that holds items is opened again if it has ended.

        :raises SpoolerUnusable: if the schema has no such table yet.
        """
        if self._session.known_key(_HOLDER) is not None:
            with contextlib.suppress(Transient):  # the items are kept for a while
                self._session.renew()
        with self._connector.lend() as connection:
            try:
                yield connection
            except psycopg.errors.UndefinedTable:
                schema.check(connection, self._connector.name, ITEMS)
                raise

    def _run(self, connection: Connection, name: str, **values: Any) -> psycopg.Cursor[Any]:
        values |= {"clock": self._now(), "spooler": self._names.spooler, "channel": self._names.item_channel}
        return connection.execute(statement(name), values | {"processes": PROCESSES}, binary=True)


def _differ(items: Sequence[Item | None], versions: Mapping[str, int]) -> bool:
    """Return whether a key has another version than this."""
    return any((item.version if item else 0) != version for item, version in zip(items, versions.values(), strict=True))


def _hear(connection: Connection, heard: set[str], keys: Collection[str], end: float) -> None:
    """Wait until a change of one of these keys is heard, at most until ``end``.

    :raises psycopg.Error: if the connection is lost.
    """
    poller = select.poll()
    poller.register(connection.fileno(), select.POLLIN)
    while heard.isdisjoint(keys) and (left := end - time.monotonic()) > 0:
        if poller.poll(int(left * 1000) + 1):
            connection.pgconn.consume_input()
            while (note := connection.pgconn.notifies()) is not None:
                heard.add(note.extra.decode())
