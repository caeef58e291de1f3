"""The servers: real ones from wheels, on loopback, with their data on the file system of the benchmark."""

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from tests.nats import server as nats
from tests.postgres import server as postgres

from ..filesystem import Ground, Place

if TYPE_CHECKING:
    from .peers import OnServer

__all__ = ["Nats", "Postgres", "Server"]

_WORKER = "worker"  # the role of workers

_POSTGRES = {
    "fsync": "on",
    "shared_buffers": "512MB",
    "max_connections": "100",
    "max_wal_size": "2GB",
    "checkpoint_timeout": "30min",
    "autovacuum_naptime": "1min",
}


class Server(ABC):
    """A server on which several systems are measured, each measurement in a new database or server.

    :param ground: the directory of its data.
    """

    settings: str
    """How it is set, in words."""
    pace = 1.0
    """Its part of the tasks, so that a run does not take minutes."""

    def __init__(self, ground: Ground) -> None:
        self.scratch = ground.scratch
        self._ground = ground
        self.url = ""
        self.working_url = ""

    @abstractmethod
    def place(self, system: "OnServer") -> contextlib.AbstractContextManager[None]:
        """Return a new database, or a new server, for one measurement."""

    def on(self, system: "OnServer") -> "_On":
        """Return the directories for the measurements of one system."""
        return _On(self, self._ground, system)

    def environment(self, system: "OnServer") -> dict[str, str]:
        """Return the variables that tell callers where the server is."""
        return _told(self.url)

    def working_environment(self, system: "OnServer") -> dict[str, str]:
        """Return the same for workers."""
        return _told(self.working_url)

    @abstractmethod
    def pids(self) -> list[int]:
        """Return the processes of the server."""

    @abstractmethod
    def close(self) -> None:
        """Stop the server."""


class _On:
    """An object with the members of ``Ground``."""

    def __init__(self, server: Server, ground: Ground, system: "OnServer") -> None:
        self._server = server
        self._ground = ground
        self._system = system

    @contextlib.contextmanager
    def place(self) -> Iterator[Place]:
        with self._ground.place() as place, self._server.place(self._system):
            yield place

    def settle(self) -> None:
        self._ground.settle()


class Postgres(Server):
    """One PostgreSQL for all measurements, with a database for each.

    unspool's workers do not wait for the server to sync claims and ends, because a task whose claim or end is lost in a
    power cut runs again. The role of the other workers has the same setting. Callers of all systems wait for the sync.
    """

    name = "PostgreSQL"

    def __init__(self, ground: Ground) -> None:
        super().__init__(ground)
        self._server = postgres.Server(directory=ground.directory, **_POSTGRES)
        self._server.start()
        self.settings = ", ".join(f"{name} {value}" for name, value in _POSTGRES.items())
        self.version = str(self._server.execute("SHOW server_version")[0])
        self._server.execute(f"CREATE ROLE {_WORKER} SUPERUSER LOGIN")
        self._server.execute(f"ALTER ROLE {_WORKER} SET synchronous_commit = off")
        self._templates: set[str] = set()
        self._number = 0

    @contextlib.contextmanager
    def place(self, system: "OnServer") -> Iterator[None]:
        template = f"template_{type(system).__name__.lower()}"
        if template not in self._templates:
            self._server.execute(f"CREATE DATABASE {template}")
            system.prepare(self._server.url(template))
            self._templates.add(template)
        self._number += 1
        database = f"bench_{self._number}"
        self._server.execute(f"CREATE DATABASE {database} TEMPLATE {template}")
        self.url = self._server.url(database)
        self.working_url = self.url.replace("postgres@", f"{_WORKER}@")
        try:
            self._server.execute("CHECKPOINT")
            yield
        finally:
            self._server.execute(f"DROP DATABASE {database} WITH (FORCE)")

    def pids(self) -> list[int]:
        return self._server.pids

    def close(self) -> None:
        self._server.close()


class Nats(Server):
    """A nats-server for each measurement, with JetStream on files and the default syncs."""

    name = "NATS JetStream"
    settings = "one node, file storage, sync_interval 2m (its default)"
    pace = 0.3

    def __init__(self, ground: Ground) -> None:
        super().__init__(ground)
        self.version = nats.version()
        self._number = 0

    @contextlib.contextmanager
    def place(self, system: "OnServer") -> Iterator[None]:
        self._number += 1
        server = nats.Server(Path(self._ground.directory) / f"nats-{self._number}").start()
        self._pid = server.pid
        self.url = self.working_url = server.url
        try:
            yield
        finally:
            server.remove()

    def pids(self) -> list[int]:
        return [self._pid]

    def close(self) -> None:
        pass


def _told(url: str) -> dict[str, str]:
    return {"BENCH_URL": url, "UNSPOOL_SPOOLERS": f"{url}?spooler=bench"}
