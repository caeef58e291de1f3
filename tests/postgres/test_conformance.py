"""PostgreSQL keeps the contract."""

from pathlib import Path

import psycopg
import pytest

from unspool.address import Address
from unspool.backends.base import Backend, Clock, Feed
from unspool.backends.postgres import PostgresBackend
from unspool.backends.postgres.feed import PostgresFeed
from unspool.settings import Settings
from unspool.signing import Signer
from unspool.testing import BackendConformance

from .conftest import wait_for_ends


class TestPostgres(BackendConformance):
    @pytest.fixture(autouse=True)
    def place_to_be(self, address: Address) -> None:
        self.address = address

    def make_backend(self, clock: Clock, place: Path, signer: Signer | None = None) -> Backend:
        return PostgresBackend(self.address, Settings(), signer=signer, trusting=True, clock=clock)

    def execute(self, query: str, **values: int) -> None:
        """Runs a statement behind the backend's back."""
        with psycopg.connect(self.address.url, autocommit=True) as connection:
            connection.execute(query, values)

    def damage(self, backend: Backend, id: str) -> None:
        assert isinstance(backend, PostgresBackend)
        last = "octet_length(data) - 1"
        self.execute(
            f"UPDATE unspool.task SET data = set_byte(data, {last}, get_byte(data, {last}) # 1) WHERE id = %(id)s",  # noqa: S608
            id=int(id.rpartition("/")[2]),
        )

    def bury(self, pid: int) -> None:
        wait_for_ends(self.address.url)

    def tell(self, feed: Feed) -> None:
        """A round trip brings all notifications along that were sent before it."""
        assert isinstance(feed, PostgresFeed)
        feed._session.rows("switches", feed._names.values())
