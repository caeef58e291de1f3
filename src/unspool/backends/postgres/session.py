"""The session with which a process serves a queue. Its claims, locks and registrations end with it.

A session-level advisory lock shows that a process is alive. There is one for each registered process and for each
process that reserves tasks, and one for each claim. The server releases them when the connection ends for any reason. A
lost session is reopened under the same keys, unless another process has noted its end before.
"""

import contextlib
import logging
import os
import select
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar, cast

import psycopg
from psycopg import pq
from psycopg.errors import error_from_result

from ... import forks
from ...errors import SpoolerUnusable
from . import pipeline
from .connection import Connection, Connector, close_all
from .machine import me
from .names import Names
from .sql import statement
from .sqlstate import Away, Transient

__all__ = ["CLAIMS", "PROCESSES", "TASKS", "Row", "Session"]

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
_NEXT, _BEGIN, _SETTLE = "next", "begin", "settle"
T = TypeVar("T")
Row = Sequence[bytes | None]
_log = logging.getLogger("unspool")
_PATIENCE = (0.05, 5.0)  # seconds between attempts to reach an unreachable server: first and maximum


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
        self._posted: list[Any] = []  # the ``about`` of each unanswered posted statement
        self._answers: list[tuple[Any, list[Row] | SpoolerUnusable]] = []
        self._keys: dict[str, int | None] = {}
        self.tasks: dict[int, int] = {}
        """The tasks whose locks this session holds, or held when it was lost, and the keys of these locks."""
        self.number = 0
        """The number of times it was opened."""
        self._end = select.poll()

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

    # The following methods bypass psycopg's conversions, which cost a worker more than all the rest. Values are text,
    # as the server reads it; rows are in its binary form.

    def next(self, values: Row) -> Row:
        """Run ``next.sql``, and return its row.

        :raises Transient, SpoolerUnusable: as ``execute``.
        """
        with self._held() as connection:
            name = self._prepare(connection, _NEXT)
            # None means null.
            result = _checked(connection.pgconn.exec_prepared(name, cast(list[bytes], values), None, 1))
            return _rows(result)[0]

    def pipeline(self, statements: Sequence[tuple[str, Row]]) -> list[list[Row]]:
        """Run statements by one transaction in one round trip. Return the rows of each.

        :raises Transient, SpoolerUnusable: as ``execute``.
        """
        with self._held() as connection:
            prepared = [(self._prepare(connection, name), values) for name, values in statements]
            return pipeline.run(connection, prepared)

    def post(self, values: Row, about: object) -> None:
        """Send ``settle.sql`` without waiting for its row. ``answers`` returns the row later, or an error.

        :param about: the object that ``answers`` returns with it.
        """
        with self._lock:
            try:
                with self._held(collect=False) as connection:
                    self._send(connection, _SETTLE, values, about)
            except SpoolerUnusable as error:
                self._answers.append((about, error))

    def begin(self, values: Row) -> list[Row]:
        """Run ``begin.sql`` in one round trip with the posted statements, and return its rows.

        :raises Transient, SpoolerUnusable: as ``execute``.
        """
        with self._lock:
            try:
                with self._held(collect=False) as connection:
                    self._send(connection, _BEGIN, values, None)
                    self._collect(connection)
                answer = self._answers[-1][1]
            finally:
                self._answers = [one for one in self._answers if one[0] is not None]
        if isinstance(answer, SpoolerUnusable):
            raise answer
        return answer

    def answers(self) -> list[tuple[Any, Row | SpoolerUnusable]]:
        """Return the ``about`` of each statement posted since the last call, with its row or an error.

        An error means that the statement was not carried out, or that the connection was lost before its answer
        arrived.
        """
        with self._lock:
            if self._posted:
                with contextlib.suppress(SpoolerUnusable), self._held():
                    pass
            found, self._answers = self._answers, []
        return [(about, answer if isinstance(answer, SpoolerUnusable) else answer[0]) for about, answer in found]

    @property
    def awaits_answers(self) -> bool:
        """Return whether ``answers`` has results to return or to wait for."""
        return bool(self._posted or self._answers)

    def has_ended(self) -> bool:
        """Return whether the server is known to have ended the session since it was last opened."""
        with self._lock:
            return not self._open or bool(self._end.poll(0))

    def _prepare(self, connection: Connection, name: str) -> bytes:
        prepared = b"unspool_%b" % name.encode()
        if name not in self._prepared:
            self._collect(connection)
            _checked(connection.pgconn.prepare(prepared, statement(name).encode()))
            self._prepared.add(name)
        return prepared

    def _send(self, connection: Connection, name: str, values: Row, about: object) -> None:
        """Send a prepared statement. Each one is a transaction, even if several are in flight."""
        prepared, pgconn = self._prepare(connection, name), connection.pgconn
        if pgconn.pipeline_status == pq.PipelineStatus.OFF:
            pgconn.enter_pipeline_mode()
        pgconn.send_query_prepared(prepared, cast(list[bytes], values), None, 1)
        pgconn.pipeline_sync()
        while pgconn.flush():
            _wait(connection, select.POLLIN | select.POLLOUT)
            pgconn.consume_input()
        self._posted.append(about)

    def _collect(self, connection: Connection) -> None:
        """Read the answers to all posted statements.

        :raises psycopg.Error: if the connection is lost or unusable.
        """
        problem: psycopg.Error | None = None
        while self._posted:
            answer: list[Row] | SpoolerUnusable = []
            result = _result(connection)
            while result is None or result.status != pq.ExecStatus.PIPELINE_SYNC:
                if result is not None and result.status == pq.ExecStatus.TUPLES_OK:
                    answer = _rows(result)
                elif result is not None:
                    error = error_from_result(result)
                    answer = self._connector.unusable(error)
                    problem = error if isinstance(answer, Away) else problem
                result = _result(connection)
            self._answers.append((self._posted.pop(0), answer))
        if connection.pgconn.pipeline_status != pq.PipelineStatus.OFF:
            connection.pgconn.exit_pipeline_mode()
        if problem is not None:
            raise problem

    @staticmethod
    def insist(call: Callable[[], T]) -> T:
        """Repeat a call until the server carries it out, and return its result. For statements that must not be lost.

        :raises SpoolerUnusable: if the server refuses it for a permanent reason.
        """
        wait = _PATIENCE[0]
        while True:
            try:
                return call()
            except Transient as error:
                if wait == _PATIENCE[0]:
                    _log.warning("%s; trying again until it succeeds", error)
                time.sleep(wait)
                wait = min(wait * 2, _PATIENCE[1])

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
            with self._held(collect=False):
                if not self._end.poll(0):
                    return
                self._lose()

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
    def _held(self, *, collect: bool = True) -> Iterator[Connection]:
        with self._lock:
            if not self._open:
                self._connection = self._opened()
            assert self._connection is not None  # noqa: S101  just opened
            try:
                if collect and self._posted:
                    self._collect(self._connection)
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
        lost = Away(f"spooler {self._connector.name} cannot be reached: the connection is lost")
        self._answers += [(about, lost) for about in self._posted]
        self._posted.clear()


def _result(connection: Connection) -> pq.abc.PGresult | None:
    """Return the next result, or None at the end of a statement. Other threads run while it waits.

    :raises psycopg.Error: if the connection is lost.
    """
    pgconn = connection.pgconn
    while pgconn.is_busy():
        _wait(connection, select.POLLIN)
        pgconn.consume_input()
    result = pgconn.get_result()
    if result is None and pgconn.status == pq.ConnStatus.BAD:
        raise psycopg.OperationalError("the connection is lost")
    return result


def _wait(connection: Connection, events: int) -> None:
    poller = select.poll()
    poller.register(connection.fileno(), events)
    poller.poll()


def _rows(result: pq.abc.PGresult) -> list[Row]:
    columns = range(result.nfields)
    return [[result.get_value(row, column) for column in columns] for row in range(result.ntuples)]


def _checked(result: pq.abc.PGresult) -> pq.abc.PGresult:
    """Return the result if it is not an error.

    :raises psycopg.Error: if it is an error.
    """
    if result.status not in (pq.ExecStatus.TUPLES_OK, pq.ExecStatus.COMMAND_OK):
        raise error_from_result(result)
    return result
