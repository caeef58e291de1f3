"""The one connection with which a process serves a queue: its claims, its locks and its signs of life end with it.

A session-level advisory lock says who is alive: one for each process that shows a sign of life or holds tasks back from
others, one for each task that is being run. The server lets go of them when the connection ends, however that happens.
A session that was lost is opened again under the same keys, unless somebody has taken note of its end before.
"""

import contextlib
import logging
import os
import select
import socket
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar, cast

import psycopg
from psycopg import pq
from psycopg.errors import error_from_result

from ...errors import SpoolerUnusable
from .connection import Away, Connection, Connector, close_all
from .names import Names
from .sql import statement

__all__ = ["HOST", "PROCESSES", "TASKS", "Session"]

HOST = socket.gethostname()
TASKS = 0x2E59 << 44
"""What is added to a task's number for the key of its lock: other programs lock smaller numbers, or others."""
PROCESSES = 0x2E5A << 44
"""The same for a process."""

_MANNERS = """
    -- What a power cut of the server takes with it is a claim or an end of the last moment, and the task runs again:
    -- that is not worth a sync for each.
    SET synchronous_commit = off;
    -- Plans are made once, perhaps while the table is empty, and must still be right with a million rows in it.
    SET plan_cache_mode = force_generic_plan;
    SET enable_seqscan = off; SET enable_hashjoin = off; SET enable_mergejoin = off; SET jit = off
"""
_NEXT = b"unspool_next"
T = TypeVar("T")
_log = logging.getLogger("unspool")
_PATIENCE = (0.05, 5.0)  # seconds between attempts to reach a server that is away, at first and at most


class Session:
    """Opened when it is first used, and again when it was lost or the process is another."""

    def __init__(self, connector: Connector, names: Names) -> None:
        self._connector = connector
        self._names = names
        self._listener: Callable[[], None] | None = None
        self._opened_ones: list[Connection] = []
        weakref.finalize(self, close_all, self._opened_ones)
        self._begin_anew()

    def _begin_anew(self) -> None:
        """All that belongs to the process."""
        self._pid = os.getpid()
        self._connection: Connection | None = None
        self._lock = threading.RLock()
        self._prepared = False
        self._keys: dict[str, int | None] = {}
        self.tasks: set[int] = set()
        """The tasks whose locks this session holds, or held when it was lost."""

    # --- use

    def execute(self, name: str, values: Mapping[str, Any]) -> Any:
        """Runs ``<name>.sql``, which gives one row or none.

        :raises Away: if the server cannot be reached, or was lost in the middle.
        :raises SpoolerUnusable: if it refuses.
        """
        with self._held() as connection:
            return self._run(connection, name, values).fetchone()

    def rows(self, name: str, values: Mapping[str, Any]) -> list[Any]:
        """The same for any number of rows."""
        with self._held() as connection:
            return self._run(connection, name, values).fetchall()

    @staticmethod
    def _run(connection: Connection, name: str, values: Mapping[str, Any]) -> psycopg.Cursor[Any]:
        prepare = connection.prepare_threshold is not None
        return connection.execute(statement(name), values, prepare=prepare, binary=True)

    def next(self, values: Sequence[bytes | None]) -> Sequence[bytes | None]:
        """Runs ``next.sql``, past psycopg's conversions, which cost a worker more than all the rest: one round trip a
        task is what its speed hangs on.

        :param values: in text, as the server reads it.
        :returns: its row, in the server's binary form.
        :raises Away, SpoolerUnusable: as ``execute``.
        """
        with self._held() as connection:
            pgconn = connection.pgconn
            if not self._prepared:
                _checked(pgconn.prepare(_NEXT, statement("next").encode()))
                self._prepared = True
            result = _checked(pgconn.exec_prepared(_NEXT, cast(list[bytes], values), None, 1))  # None is null
            return [result.get_value(0, column) for column in range(result.nfields)]

    @staticmethod
    def insist(call: Callable[[], T]) -> T:
        """What a call gives, repeated until the server is there: for what must not be forgotten."""
        wait = _PATIENCE[0]
        while True:
            try:
                return call()
            except Away as error:
                if wait == _PATIENCE[0]:
                    _log.warning("%s; trying again until it is back", error)
                time.sleep(wait)
                wait = min(wait * 2, _PATIENCE[1])

    # --- keys

    def show(self, role: str) -> None:
        """Has this process be alive in a role as soon as the server can be reached, and as long as the session is."""
        if self._pid != os.getpid():
            self._begin_anew()
        self._keys.setdefault(role, None)
        with contextlib.suppress(Away):
            self.key(role)

    def key(self, role: str) -> int:
        """The key of this process in a role.

        :raises Away, SpoolerUnusable: as ``execute``.
        """
        with self._held() as connection:
            return self._keys.get(role) or self._register(connection, role)

    def known_key(self, role: str) -> int | None:
        """The key if there is one."""
        return self._keys.get(role) if self._pid == os.getpid() else None

    def drop(self, role: str) -> None:
        """Takes a sign of life away."""
        if self._pid != os.getpid():
            return
        key = self._keys.pop(role, None)
        if key is not None and self._open:
            with contextlib.suppress(SpoolerUnusable), self._held() as connection:
                connection.execute(statement("drop"), {"key": key, "processes": PROCESSES})

    def _register(self, connection: Connection, role: str) -> int:
        values = {
            "spooler": self._names.spooler,
            "role": role,
            "host": HOST,
            "pid": os.getpid(),
            "processes": PROCESSES,
        }
        row = connection.execute(statement("register"), values).fetchone()
        assert row is not None  # noqa: S101  an INSERT has a row
        key: int = row[0]
        self._keys[role] = key
        return key

    # --- being told

    def listen(self, listener: Callable[[], None]) -> None:
        """Has ``listener`` called, while something is read from this session, when the queue was changed."""
        self._listener = listener
        with self._held() as connection:
            self._listen(connection)

    def fileno(self) -> int | None:
        """What becomes readable when the server says something."""
        with self._lock:
            if self._connection is None or self._connection.closed or self._pid != os.getpid():
                return None
            return self._connection.fileno()

    def hear(self) -> None:
        """Takes in what the server has said.

        :raises Away: if the connection is lost.
        """
        with self._lock:
            if self._connection is None or self._pid != os.getpid():
                return
            pgconn = self._connection.pgconn
            try:
                pgconn.consume_input()
                while (note := pgconn.notifies()) is not None:
                    self._told(note)
            except psycopg.Error as error:
                self._lose()
                raise self._connector.unusable(error) from error

    def close(self) -> None:
        """Ends the session, and with it what it held; the next use opens another."""
        with self._lock:
            if self._pid == os.getpid():
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
        if self._pid != os.getpid():
            self._begin_anew()
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
        self._prepared = False
        try:
            connection.execute(_MANNERS)
            for role, key in list(self._keys.items()):
                self._take_up(connection, role, key) if key else self._register(connection, role)
            if self.tasks:  # they run on in this process
                connection.execute(
                    "SELECT pg_try_advisory_lock(%s + id) FROM unnest(%s::int8[]) AS id", [TASKS, list(self.tasks)]
                )
            if self._listener is not None:
                self._listen(connection)
        except psycopg.Error as error:
            connection.close()
            raise self._connector.unusable(error) from error
        if self._listener is not None:
            self._listener()
        self._opened_ones[:] = [connection]
        return connection

    def _take_up(self, connection: Connection, role: str, key: int) -> None:
        """Shows the same sign as before the connection was lost. If the server has not noticed that yet, it is told."""
        values = {"key": key, "lock": PROCESSES + key, "spooler": self._names.spooler, "role": role, "host": HOST}
        for _ in range(50):
            row = connection.execute(statement("take_up"), values | {"pid": os.getpid()}).fetchone()
            if row is not None and row[0]:
                return
            select.select([], [], [], 0.02)
        self._register(connection, role)  # the old one's end will be noticed by all

    def _listen(self, connection: Connection) -> None:
        connection.add_notify_handler(lambda _: self._listener() if self._listener else None)
        connection.execute(f'LISTEN "{self._names.channel}"')

    def _told(self, _note: Any) -> None:
        if self._listener is not None:
            self._listener()

    def _lose(self) -> None:
        if self._connection is not None:
            with contextlib.suppress(psycopg.Error):
                self._connection.close()
        self._connection = None


def _checked(result: pq.abc.PGresult) -> pq.abc.PGresult:
    """The result, if it is one.

    :raises psycopg.Error: if it is an error's.
    """
    if result.status not in (pq.ExecStatus.TUPLES_OK, pq.ExecStatus.COMMAND_OK):
        raise error_from_result(result)
    return result
