"""The conformance suite on PostgreSQL."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from unspool.address import Address
from unspool.backends.base import Backend, Clock
from unspool.backends.postgres import PostgresBackend
from unspool.settings import Settings
from unspool.testing import BackendConformance

from .conftest import wait_for_ends


@pytest.fixture(scope="module")
def control(database: str) -> Iterator[psycopg.Connection[Any]]:
    """Yield a connection that is not the backend's, and commits each statement."""
    with psycopg.connect(database, autocommit=True) as connection:
        yield connection


class TestPostgres(BackendConformance):
    @pytest.fixture(autouse=True)
    def queue_of_the_test(self, address: Address, control: psycopg.Connection[Any]) -> None:
        self.address, self.control = address, control

    def make_backend(self, clock: Clock, place: Path) -> Backend:
        return PostgresBackend(self.address, Settings(), clock=clock)

    def damage(self, backend: Backend, id: str) -> None:
        assert isinstance(backend, PostgresBackend)
        last = "octet_length(data) - 1"
        self.control.execute(
            f"UPDATE unspool.task SET data = set_byte(data, {last}, get_byte(data, {last}) # 1) WHERE id = %(id)s",  # noqa: S608
            {"id": int(id.rpartition("/")[2])},
        )

    def sync(self, backend: Backend) -> None:
        """Wait for the ends of sessions. The answer to the claim brings all earlier notifications along."""
        assert isinstance(backend, PostgresBackend)
        wait_for_ends(self.control)
        backend.exchange([], ["0"])
