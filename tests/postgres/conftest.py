"""Fixtures: one real server for all tests, and a queue for each test."""

import contextlib
import os
import re
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from unspool.address import Address, parse
from unspool.backends.postgres import PostgresBackend, schema
from unspool.backends.postgres.connection import Connector
from unspool.settings import Settings

from ..runtime.conftest import PATIENCE, Place
from .server import Server, serving

OTHER = os.environ.get("UNSPOOL_TEST_POSTGRES", "")


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """Yield a server with the schema in its database ``postgres``."""
    with serving() as server:
        migrate(server.url())
        yield server


@pytest.fixture(scope="session")
def database(request: pytest.FixtureRequest) -> str:
    """Return the URL of a database with the schema: of the server, or of UNSPOOL_TEST_POSTGRES."""
    if OTHER:
        migrate(OTHER)
        return OTHER
    server: Server = request.getfixturevalue("server")
    return server.url()


@pytest.fixture
def address(database: str) -> Address:
    """Return the address of a new queue."""
    return queue_in(database)


def queue_in(url: str) -> Address:
    """Return the address of a new queue in a database."""
    return parse(f"{url}{'&' if '?' in url else '?'}spooler=q{uuid.uuid4().hex}")


def migrate(url: str) -> tuple[int, int]:
    """Create or update the schema of a database."""
    connection = Connector("test", url).open(check=False)
    try:
        return schema.migrate(connection)
    finally:
        connection.close()


@pytest.fixture
def place(tmp_path: Path, address: Address) -> Iterator[Place]:
    """Yield a place for an application whose spooler is on the server. Its supervisors end with the test."""
    with place_at(tmp_path, address) as here:
        yield here


@contextlib.contextmanager
def place_at(root: Path, address: Address) -> Iterator[Place]:
    """Yield a place whose spooler is this queue."""
    here = Place(root)
    here.env |= {"UNSPOOL_SPOOLERS": url_of(address), "UNSPOOL_SECRET_KEY": "a secret key of these tests" * 2}
    del here.env["UNSPOOL_DURABILITY"]
    try:
        yield here
    finally:
        here.close()


def url_of(address: Address, port: int | None = None) -> str:
    """Return the URL of a queue, with another port if one is given."""
    url = address.url if port is None else re.sub(r":\d+/", f":{port}/", address.url, count=1)
    return f"{url}{'&' if '?' in url else '?'}spooler={address.spooler}"


def look_at(address: Address) -> PostgresBackend:
    """Return a backend of the test process for a queue."""
    return PostgresBackend(address, Settings())


def wait_for_ends(control: psycopg.Connection[Any]) -> None:
    """Wait until the server has ended the sessions of unspool whose clients on this machine have ended.

    It releases the locks of a session when it notices the end of the client, which is later under load.
    """
    query = "SELECT client_port FROM pg_stat_activity WHERE application_name = 'unspool' AND client_addr = '127.0.0.1'"

    def all_have_clients() -> bool:
        sockets = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
        established = {int(local.rpartition(":")[2], 16) for _, local, _, state, *_ in sockets if state == "01"}
        return {port for (port,) in control.execute(query)} <= established

    wait_until(all_have_clients)


def wait_until(done: Callable[[], object]) -> None:
    """Wait until a condition holds. It is checked repeatedly, because no event reports it."""
    deadline = time.monotonic() + PATIENCE
    while not done():
        assert time.monotonic() < deadline
        threading.Event().wait(0.01)
