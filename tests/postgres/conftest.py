"""One real server for all these tests, and a queue of its own for each."""

import uuid
from collections.abc import Iterator

import pytest

from unspool.address import Address, parse
from unspool.backends.postgres import schema
from unspool.backends.postgres.connection import Connector

from .server import Server, serving


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """A server with the schema in its database ``postgres``."""
    with serving() as server:
        migrate(server.url())
        yield server


@pytest.fixture(scope="session")
def database(server: Server) -> str:
    """The URL of a database with the schema; another one's if UNSPOOL_TEST_POSTGRES names it."""
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
