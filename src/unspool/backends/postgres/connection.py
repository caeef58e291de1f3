"""Connections: opening them, and keeping idle ones for senders."""

import contextlib
import select
import threading
import weakref
from collections.abc import Iterator
from typing import Any

import psycopg
from psycopg import conninfo, pq

from ... import forks
from ...errors import SpoolerUnusable
from . import schema
from .sqlstate import Away, Kind, ReadOnly, Transient, first_line, kind_of
from .timelimit import Connection

__all__ = ["Connection", "Connector", "close_all"]

_DEFAULTS: dict[str, Any] = {
    # A dead server or network path is noticed within half a minute, not after the kernel's two hours.
    "connect_timeout": 5,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 20_000,
    "target_session_attrs": "read-write",
    "application_name": "unspool",
}
_FIXED = {"client_encoding": "UTF8"}
_SETTINGS = """
    -- The statements rely on these settings, which a database or a role may override.
    SET search_path = pg_catalog; SET row_security = on;
    SET default_transaction_isolation = 'read committed'; SET default_transaction_deferrable = off;
    SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'
"""
_KEPT = 8  # idle connections kept for senders


class Connector:
    """Open connections to one database, and keep idle ones for senders.

    :param name: the spooler's name, for messages.
    :param url: a libpq URI. It may contain a password, so it is never shown.
    """

    def __init__(self, name: str, url: str) -> None:
        self.name = name
        self._url = url
        self._idle: list[Connection] = []
        self._lock = threading.Lock()
        weakref.finalize(self, close_all, self._idle)
        forks.register(after_in_child=self._begin_in_child)

    def open(self, *, check: bool = True, **options: Any) -> Connection:
        """Return a new connection in autocommit mode.

        :param check: whether to require a schema that this version can use.
        :raises Away: if the server cannot be reached.
        :raises SpoolerUnusable: if the server refuses the connection, or the schema is missing or unusable.
        """
        try:
            given = conninfo.conninfo_to_dict(self._url)
            connection = Connection.connect(autocommit=True, **{**_DEFAULTS, **given, **_FIXED, **options})
        except psycopg.Error as error:
            raise self.unusable(error) from error
        try:
            if self._is_behind_a_proxy(connection):
                # Behind a pooler, the next transaction may run in another server process, which would keep these
                # settings for another client.
                connection.prepare_threshold = None
            else:
                connection.execute(_SETTINGS)
            if check:
                schema.check(connection, self.name)
        except psycopg.Error as error:
            connection.close()
            raise self.unusable(error) from error
        except BaseException:
            connection.close()
            raise
        return connection

    def open_session(self) -> Connection:
        """Return a new connection that keeps its locks and receives notifications as long as it lives.

        :raises Away, SpoolerUnusable: as ``open``; also if a proxy pools connections by transaction.
        """
        connection = self.open()
        try:
            if connection.prepare_threshold is None and self._is_shared(connection):
                raise SpoolerUnusable(
                    f"spooler {self.name} cannot be served here: a proxy pools connections by transaction, and workers "
                    "and ephemeral items need sessions of their own; give the server's address, or a pool in session "
                    "mode (sending works as it is)"
                )
            connection.execute(_SETTINGS)
        except psycopg.Error as error:
            connection.close()
            raise self.unusable(error) from error
        except BaseException:
            connection.close()
            raise
        return connection

    def _is_shared(self, connection: Connection) -> bool:
        """Return whether another connection gets the same server process as this idle one."""
        mine = connection.execute("SELECT pg_backend_pid()").fetchone()
        with self.open() as other, other.transaction():
            others = other.execute("SELECT pg_backend_pid()").fetchone()
        return mine == others

    @contextlib.contextmanager
    def lend(self) -> Iterator[Connection]:
        """Lend a connection to the calling thread for some statements.

        :raises Away, SpoolerUnusable: as ``open``, and for errors within the block.
        """
        connection = self._kept() or self.open()
        try:
            yield connection
        except psycopg.Error as error:
            unusable = self.unusable(error, lost=connection.closed)
            connection.close() if isinstance(unusable, Away) else self._keep(connection)
            raise unusable from error
        except BaseException:
            if connection.pgconn.transaction_status == pq.TransactionStatus.IDLE:
                self._keep(connection)
            else:
                connection.close()
            raise
        self._keep(connection)

    def close(self) -> None:
        """Close the idle connections."""
        with self._lock:
            close_all(self._idle)

    def unusable(self, error: psycopg.Error, *, lost: bool = False) -> SpoolerUnusable:
        """Return the exception to raise for an error of the server or the connection.

        :param lost: whether the connection was lost with it.
        """
        text = first_line(error)
        if isinstance(error, psycopg.errors.InsufficientPrivilege):
            return SpoolerUnusable(
                f"spooler {self.name} cannot be used: {text}; docs/guide/postgresql.md lists the rights that are needed"
            )
        match kind_of(error, lost=lost):
            case Kind.READ_ONLY:
                return ReadOnly(
                    f"spooler {self.name} cannot be used: its server is a read-only replica; name the primary, or all "
                    "servers with commas"
                )
            case Kind.AWAY:
                return Away(f"spooler {self.name} cannot be reached: {text}")
            case Kind.RETRY:
                return Transient(f"spooler {self.name} cannot be used just now: {text}")
            case Kind.DAMAGED:
                return SpoolerUnusable(f"spooler {self.name} is damaged: {text}; its database needs to be restored")
            case Kind.REFUSED:
                return SpoolerUnusable(f"spooler {self.name} cannot be used: {text}")

    def _kept(self) -> Connection | None:
        with self._lock:
            while self._idle:
                connection = self._idle.pop()
                if not _is_stale(connection):
                    return connection
                connection.close()
        return None

    def _keep(self, connection: Connection) -> None:
        with self._lock:
            if len(self._idle) < _KEPT:
                self._idle.append(connection)
                return
        connection.close()

    def _begin_in_child(self) -> None:
        self._lock = threading.Lock()
        self._idle.clear()  # they are the parent's

    @staticmethod
    def _is_behind_a_proxy(connection: Connection) -> bool:
        """Return whether a proxy is in between. Proxies report process ids of their own."""
        row = connection.execute("SELECT pg_backend_pid()").fetchone()
        return row is not None and row[0] != connection.info.backend_pid


def _is_stale(connection: Connection) -> bool:
    """Return whether the server has closed an idle connection or sent anything, which is not expected."""
    if connection.closed:
        return True
    poller = select.poll()
    poller.register(connection.fileno(), select.POLLIN)
    return bool(poller.poll(0))


def close_all(connections: list[Connection]) -> None:
    """Close connections, and empty the list."""
    while connections:
        connections.pop().close()
