"""A soak of PostgreSQL: two supervisors, one behind a slow proxy, senders on both sides, and a forwarder."""

import contextlib
import os
import random
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

import psycopg

from tests.postgres.server import Server
from unspool import settings

from . import oracle
from .cast import Cast
from .operators import Operators, Route
from .proxy import Proxy
from .sockets import owner
from .target import Fault, base_environment, server_parts

__all__ = ["PostgresTarget"]

_DATABASE = "app"
_LAG = 0.004  # seconds of delay for each piece of data through the proxy


class PostgresTarget:
    """The spooler ``mail`` in a database of a separate server, and a directory that is forwarded to it."""

    def __init__(self, scratch: Path, log: str, seed: str, pause: float) -> None:
        self._log = log
        self._server = Server(log_min_messages="warning")
        self._server.start()
        self._server.execute(f"CREATE DATABASE {_DATABASE}")
        self._proxy = Proxy(self._server.port)
        self._proxy.lag = _LAG
        here = self._server.url(_DATABASE, spooler="mail")
        there = self._server.url(_DATABASE, self._proxy.port, spooler="mail")
        inbox = str(scratch / "inbox" / "mail")
        key = secrets.token_urlsafe(32)
        base = base_environment(scratch, log) | {"UNSPOOL_SECRET_KEY": key}
        direct = base | {"UNSPOOL_SPOOLERS": here}
        proxied = base | {"UNSPOOL_SPOOLERS": there}
        forwarded = base | {"UNSPOOL_SPOOLERS": inbox, "UNSPOOL_FORWARD": here}
        self.environment = direct
        self.spoolers = [here]
        self.routes: list[Route] = []
        self.parts = server_parts(direct, proxied, forwarded, seed, pause)
        self._inbox = inbox
        settings.configure(spoolers=[here], secret_key=key)
        subprocess.run([sys.executable, "-m", "unspool", "migrate"], env=os.environ | direct, check=True,
                       stdout=subprocess.DEVNULL)  # fmt: skip

    def faults(self, cast: Cast) -> Mapping[Fault, float]:
        self._cast = cast
        return {
            self.restarted: 2, self.crashed: 1.5, self.killed: 1.5, self.backend_killed: 1, self.session_terminated: 5,
            self.statement_cancelled: 3, self.table_locked: 3, self.impatient: 1.5, self.idle_sessions_ended: 1,
            self.serializable: 1, self.connections_used_up: 1, self.proxy_cut: 4, self.proxy_silent: 2,
        }  # fmt: skip

    # --- the server

    def restarted(self, _source: random.Random) -> None:
        self._server.restart()

    def crashed(self, _source: random.Random) -> None:
        """Stop the server at once without a checkpoint, as after a crash of one of its processes."""
        oracle.append(self._log, "crash")
        self._server.stop(signal.SIGQUIT)
        self._server.start()
        oracle.append(self._log, "crash")

    def killed(self, source: random.Random) -> None:
        oracle.append(self._log, "crash")
        self._server.kill()
        time.sleep(source.random() * 2)
        self._server.start()
        oracle.append(self._log, "crash")

    def backend_killed(self, source: random.Random) -> None:
        """Kill one of the server's sessions. The server then ends all sessions and recovers."""
        if found := self._sessions():
            oracle.append(self._log, "crash")
            with contextlib.suppress(psycopg.Error):
                self._server.execute(f"COPY (SELECT 1) TO PROGRAM 'kill -9 {source.choice(found)[0]}'")
            time.sleep(2)
            oracle.append(self._log, "crash")

    # --- sessions

    def _sessions(self) -> list[tuple[int, int]]:
        """Return the server's process and the client's port of each session of unspool."""
        query = "SELECT pid, client_port FROM pg_stat_activity WHERE application_name = 'unspool' ORDER BY pid"
        with contextlib.suppress(psycopg.Error), psycopg.connect(self._server.url(), autocommit=True) as one:
            return [(pid, port) for pid, port in one.execute(query).fetchall()]
        return []

    def _terminate(self, sessions: Iterable[tuple[int, int]]) -> None:
        """End sessions, and log their processes: all behind the proxy, if one of the sessions goes through it."""
        for pid, port in sessions:
            client = owner(port)
            with self._cast.cut_off([client] if client and client != os.getpid() else self._behind()):
                self._do(f"SELECT pg_terminate_backend({pid})")

    def session_terminated(self, source: random.Random) -> None:
        found = self._sessions()
        self._terminate(source.sample(found, min(len(found), source.choice([1, 1, 2]))))

    def statement_cancelled(self, source: random.Random) -> None:
        found = self._sessions()
        for _ in range(50):
            if found:
                self._do(f"SELECT pg_cancel_backend({source.choice(found)[0]})")

    def idle_sessions_ended(self, source: random.Random) -> None:
        """End all idle sessions by a time limit for new ones, as an administrator may configure it."""
        self._setting("idle_session_timeout", "500ms")
        self._terminate(self._sessions())
        time.sleep(source.uniform(1, 4))
        self._setting("idle_session_timeout", None)
        self._terminate(self._sessions())

    def impatient(self, source: random.Random) -> None:
        """Set a time limit for statements, and lock a table for longer."""
        for name in ("statement_timeout", "lock_timeout"):
            self._setting(name, "300ms")
        self._terminate(self._sessions())
        for _ in range(3):
            time.sleep(source.random())
            self._lock(1.0)
        for name in ("statement_timeout", "lock_timeout"):
            self._setting(name, None)
        self._terminate(self._sessions())

    def serializable(self, source: random.Random) -> None:
        self._setting("default_transaction_isolation", "serializable")
        self._terminate(self._sessions())
        time.sleep(source.uniform(2, 5))
        self._setting("default_transaction_isolation", None)
        self._terminate(self._sessions())

    def _setting(self, name: str, value: str | None) -> None:
        self._do(f"ALTER DATABASE {_DATABASE} " + (f"SET {name} = '{value}'" if value else f"RESET {name}"))

    def _do(self, query: str) -> None:
        """Run a statement. Ignore errors, because the server may be recovering."""
        with contextlib.suppress(psycopg.Error):
            self._server.execute(query)

    def table_locked(self, source: random.Random) -> None:
        self._lock(source.uniform(0.5, 4))

    def _lock(self, seconds: float) -> None:
        with contextlib.suppress(psycopg.Error), psycopg.connect(self._server.url(_DATABASE)) as one:
            one.execute("LOCK TABLE unspool.task IN ACCESS EXCLUSIVE MODE")
            time.sleep(seconds)

    def connections_used_up(self, source: random.Random) -> None:
        held: list[psycopg.Connection] = []
        with contextlib.suppress(psycopg.Error):
            while True:
                held.append(psycopg.connect(self._server.url(_DATABASE)))
        time.sleep(source.uniform(0.5, 3))
        for one in held:
            one.close()

    # --- the network

    def proxy_cut(self, source: random.Random) -> None:
        with self._cast.cut_off(self._behind()):
            self._proxy.cut(seconds=source.choice([0, 0, source.uniform(0, 3)]))

    def proxy_silent(self, source: random.Random) -> None:
        self._proxy.silence(source.uniform(0.5, 4))

    def _behind(self) -> list[int]:
        """Return the processes behind the proxy."""
        return self._cast.members("supervisor-2", "producer-2")

    # --- the end

    def end_faults(self) -> None:
        for name in ("idle_session_timeout", "statement_timeout", "lock_timeout", "default_transaction_isolation"):
            self._setting(name, None)

    def bring_back(self, operators: Operators) -> None:
        operators.run("move", self._inbox, self.spoolers[0])

    def taken(self) -> set[str]:
        return set()

    def close(self) -> None:
        self._proxy.close()
        self._server.close()
