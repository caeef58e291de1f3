"""The session with which a process serves a queue. Its claims, locks and registrations end with it.

A session-level advisory lock shows that a process is alive. There is one for each registered process and for each
process that reserves tasks, and one for each claim. The server releases them when the connection ends for any reason. A
lost session is reopened under the same keys, unless another process has noted its end before.
"""

import contextlib
import os
import select
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import psycopg

from ... import forks
from ...errors import SpoolerUnusable
from . import pipeline
from .connection import Connection, Connector, close_all
from .machine import me
from .names import Names
from .sql import statement
from .sqlstate import Away, Transient

__all__ = ["CLAIMS", "PROCESSES", "TASKS", "Session"]

TASKS = 0x2E59 << 44
"""The key of a carrier's lock is this number plus the task's number. It avoids the keys of other programs."""
PROCESSES = 0x2E5A << 44
"""The key of a process's lock is this number plus the process's number."""
CLAIMS = 0x2E5B << 44
"""The key of a claim's lock is this number plus the claim's fence."""

_MANNERS = """
    -- A session waits for locks without limit and lives as long as its process, whatever the settings of the database,
    -- role or pool.
    SET statement_timeout = 0; SET lock_timeout = 0;
    SET idle_session_timeout = 0; SET idle_in_transaction_session_timeout = 0;
    -- A power cut of the server may lose the claims and ends of the last moment, and those tasks run again. A sync for
    -- each would cost more.
    SET synchronous_commit = off;
    -- Plans are made once, perhaps while the table is empty, and must still be good with a million rows.
    SET plan_cache_mode = force_generic_plan;
    SET enable_seqscan = off; SET enable_hashjoin = off; SET enable_mergejoin = off; SET jit = off
"""
_NEWER_MANNERS = "SET transaction_timeout = 0"
_WITH_NEWER_MANNERS = 170000


class Session:
    """A session that is opened on first use, and reopened after it was lost or the process was forked."""

    def __init__(self, connector: Connector, names: Names) -> None:
        self._connector = connector
        self._names = names
        self._listener: Callable[[], None] | None = None
        self.owner: int | None = None
        """The key of the feed of this process or of its supervisor. It owns the tasks that are started here."""
        self.patience: float | None = None
        """The time limit of statements after the next opening; None to wait without limit, as workers do."""
        self._opened_ones: list[Connection] = []
        weakref.finalize(self, close_all, self._opened_ones)
        self._begin()
        forks.register(after_in_child=self._begin)

    def _begin(self) -> None:
        """Reset the state of the process. After a fork, the connection is the parent's."""
        self._opened_ones.clear()
        self._connection: Connection | None = None
        self._lock = threading.RLock()
        self._prepared: set[str] = set()
        self._keys: dict[str, int | None] = {}
        self.tasks: dict[int, int] = {}
        """The tasks whose locks this session holds, or held when it was lost, and the keys of these locks."""
        self.number = 0
        """The number of times it was opened."""
        self._end = select.poll()

    @property
    def connection(self) -> Connection | None:
        """Return the connection that the session has now; None before the first use and after a loss."""
        return self._connection

    # --- use

    def execute(self, name: str, values: Mapping[str, Any]) -> Any:
        """Run ``<name>.sql``. Return its row, or None.

        :raises Away: if the server cannot be reached, or was lost during the statement.
        :raises Transient: if the same statement may succeed later.
        :raises SpoolerUnusable: if the server refuses it.
        """
        with self._held() as connection:
            return self._run(connection, name, values).fetchone()

    def rows(self, name: str, values: Mapping[str, Any]) -> list[Any]:
        """Run ``<name>.sql``, and return all its rows.

        :raises Transient, SpoolerUnusable: as ``execute``.
        """
        with self._held() as connection:
            return self._run(connection, name, values).fetchall()

    @staticmethod
    def _run(connection: Connection, name: str, values: Mapping[str, Any]) -> psycopg.Cursor[Any]:
        prepare = connection.prepare_threshold is not None
        return connection.execute(statement(name), values, prepare=prepare, binary=True)

    def pipeline(self, statements: Sequence[tuple[str, pipeline.Row]]) -> list[list[pipeline.Row]]:
        """Run statements by one transaction in one round trip. Return the rows of each.

        :raises Transient, SpoolerUnusable: as ``execute``.
        """
        self.renew()  # otherwise the caller would not know whether a lost session has carried it out
        with self._held() as connection:
            return pipeline.run(connection, [(self._prepare(connection, name), values) for name, values in statements])

    def _prepare(self, connection: Connection, name: str) -> bytes:
        prepared = b"unspool_%b" % name.encode()
        if name not in self._prepared:
            pipeline.prepare(connection, prepared, statement(name))
            self._prepared.add(name)
        return prepared

    # --- keys

    def show(self, role: str) -> None:
        """Register this process as alive in a role, as soon as the server can be reached, while the session exists.

        :raises SpoolerUnusable: if the server refuses this process for a permanent reason.
        """
        self._keys.setdefault(role, None)
        with contextlib.suppress(Transient):
            self.key(role)

    def key(self, role: str) -> int:
        """Return the key of this process in a role.

        :raises Transient, SpoolerUnusable: as ``execute``.
        """
        with self._held() as connection:
            return self._keys.get(role) or self._register(connection, role)

    def renew(self) -> None:
        """Open the session again under its keys if it is known to have ended.

        :raises Transient, SpoolerUnusable: as ``execute``.
        """
        for _ in range(2):
            with self._held():
                if not self._end.poll(0):
                    return
                self._lose()

    def worker_key(self) -> int:
        """Return the key under which this process claims tasks. It is always the same.

        :raises Transient, SpoolerUnusable: as ``execute``.
        """
        return self.known_key("worker") or self.key("worker" if "worker" in self._keys else "claim")

    def known_key(self, role: str) -> int | None:
        """Return the key if it is known, or None."""
        return self._keys.get(role)

    def drop(self, role: str) -> None:
        """Remove the registration of a role."""
        key = self._keys.pop(role, None)
        if key is not None and self._open:
            with contextlib.suppress(SpoolerUnusable), self._held() as connection:
                connection.execute(statement("drop"), {"key": key, "processes": PROCESSES})

    def _register(self, connection: Connection, role: str) -> int:
        row = connection.execute(statement("register"), self._sign(role) | {"processes": PROCESSES}).fetchone()
        assert row is not None  # noqa: S101  an INSERT has a row
        key: int = row[0]
        self._keys[role] = key
        if role == "feed":
            self.owner = key
        return key

    def _sign(self, role: str) -> dict[str, Any]:
        """Return the identity of this process for other processes."""
        return {"spooler": self._names.spooler, "role": role, "host": me(), "pid": os.getpid()}

    # --- notifications

    def listen(self, listener: Callable[[], None]) -> None:
        """Call ``listener`` after the queue has changed, while this session is being read."""
        self._listener = listener
        with self._held() as connection:
            self._listen(connection)

    def fileno(self) -> int | None:
        """Return the descriptor that becomes readable when the server sends something, or None."""
        with self._lock:
            if self._connection is None or self._connection.closed:
                return None
            return self._connection.fileno()

    def hear(self) -> None:
        """Process what the server has sent.

        :raises Away: if the connection is lost.
        """
        with self._lock:
            if self._connection is None:
                return
            pgconn = self._connection.pgconn
            try:
                pgconn.consume_input()
                while (note := pgconn.notifies()) is not None:
                    self._told(note)
            except psycopg.Error as error:
                self._lose()
                raise self._connector.unusable(error, lost=True) from error

    def close(self) -> None:
        """End the session and release its locks. The next use opens another."""
        with self._lock:
            for role in list(self._keys):
                self.drop(role)
            self.tasks.clear()
            self._lose()

    # --- opening

    @property
    def _open(self) -> bool:
        return self._connection is not None and not self._connection.closed

    @contextlib.contextmanager
    def _held(self) -> Iterator[Connection]:
        with self._lock:
            if not self._open:
                self._connection = self._opened()
            assert self._connection is not None  # noqa: S101  just opened
            try:
                yield self._connection
            except psycopg.Error as error:
                unusable = self._connector.unusable(error, lost=self._connection.closed)
                if isinstance(unusable, Away):
                    self._lose()
                raise unusable from error

    def _opened(self) -> Connection:
        connection = self._connector.open_session()
        connection.patience = self.patience
        self._prepared.clear()
        self.number += 1
        self._end = select.poll()
        self._end.register(connection.fileno(), getattr(select, "POLLRDHUP", 0))
        try:
            connection.execute(_MANNERS)
            if connection.info.server_version >= _WITH_NEWER_MANNERS:
                connection.execute(_NEWER_MANNERS)
            for role, key in list(self._keys.items()):
                self._take_up(connection, role, key) if key else self._register(connection, role)
            if self.tasks:  # they continue to run in this process
                locks = list(self.tasks.values())
                connection.execute("SELECT pg_try_advisory_lock(lock) FROM unnest(%s::int8[]) AS lock", [locks])
            if self._listener is not None:
                self._listen(connection)
        except psycopg.Error as error:
            unusable = self._connector.unusable(error, lost=connection.closed)
            connection.close()
            raise unusable from error
        except SpoolerUnusable:
            connection.close()
            raise
        if self._listener is not None:
            self._listener()
        self._opened_ones[:] = [connection]
        return connection

    def _take_up(self, connection: Connection, role: str, key: int) -> None:
        """Take up the registration from before the connection was lost. End the former session if it still exists.

        :raises Away: if the server does not end the former session.
        """
        values = self._sign(role) | {"key": key, "lock": PROCESSES + key}
        for _ in range(50):
            row = connection.execute(statement("take_up"), values).fetchone()
            if row is not None and row[0]:
                return
            select.select([], [], [], 0.02)
        # Under another key, the tasks would belong to a dead process.
        raise Away(f"spooler {self._connector.name} cannot be reached: a former session of this process has not ended")

    def _listen(self, connection: Connection) -> None:
        connection.add_notify_handler(self._told)
        connection.execute(f'LISTEN "{self._names.channel}"')

    def _told(self, _note: Any) -> None:
        if self._listener is not None:
            self._listener()

    def _lose(self) -> None:
        if self._connection is not None:
            with contextlib.suppress(psycopg.Error):
                self._connection.close()
        self._connection = None
