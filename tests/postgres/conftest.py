"""One real server for all these tests, and a queue of its own for each."""

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
    """A server with the schema in its database ``postgres``."""
    with serving() as server:
        migrate(server.url())
        yield server


@pytest.fixture(scope="session")
def database(request: pytest.FixtureRequest) -> str:
    """The URL of a database with the schema: of the server's, or the one that UNSPOOL_TEST_POSTGRES names."""
    if OTHER:
        migrate(OTHER)
        return OTHER
    server: Server = request.getfixturevalue("server")
    return server.url()


@pytest.fixture
def address(database: str) -> Address:
    """A queue that nobody has used yet."""
    return queue_in(database)


def queue_in(url: str) -> Address:
    """The address of a new queue in a database."""
    return parse(f"{url}{'&' if '?' in url else '?'}spooler=q{uuid.uuid4().hex}")


def migrate(url: str) -> tuple[int, int]:
    """Brings a database's schema up to date."""
    connection = Connector("test", url).open(check=False)
    try:
        return schema.migrate(connection)
    finally:
        connection.close()


@pytest.fixture
def place(tmp_path: Path, address: Address) -> Iterator[Place]:
    """A place for an application whose spooler is on the server; its supervisors end when the test does."""
    with place_at(tmp_path, address) as here:
        yield here


@contextlib.contextmanager
def place_at(root: Path, address: Address) -> Iterator[Place]:
    """A place whose spooler is this queue."""
    here = Place(root)
    here.env |= {"UNSPOOL_SPOOLERS": url_of(address), "UNSPOOL_SECRET_KEY": "a secret key of these tests" * 2}
    del here.env["UNSPOOL_DURABILITY"]
    try:
        yield here
    finally:
        here.close()


def url_of(address: Address, port: int | None = None) -> str:
    """The URL of a queue, by way of a port."""
    url = address.url if port is None else re.sub(r":\d+/", f":{port}/", address.url, count=1)
    return f"{url}{'&' if '?' in url else '?'}spooler={address.spooler}"


def look_at(address: Address) -> PostgresBackend:
    """The test's own view of a queue; pickles are not opened by looking."""
    return PostgresBackend(address, Settings())


def wait_for_ends(control: psycopg.Connection[Any]) -> None:
    """Waits until the server has ended the sessions of unspool whose clients on this machine are gone.

    The server lets go of a session's locks when it has noticed the end of its client, which is later under load.
    """
    query = "SELECT client_port FROM pg_stat_activity WHERE application_name = 'unspool' AND client_addr = '127.0.0.1'"

    def all_have_clients() -> bool:
        sockets = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
        established = {int(local.rpartition(":")[2], 16) for _, local, _, state, *_ in sockets if state == "01"}
        return {port for (port,) in control.execute(query)} <= established

    wait_until(all_have_clients)


def wait_until(done: Callable[[], object]) -> None:
    """Waits for what no event tells of."""
    deadline = time.monotonic() + PATIENCE
    while not done():
        assert time.monotonic() < deadline
        threading.Event().wait(0.01)
