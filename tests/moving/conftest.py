"""Directories, queues on real servers, tasks that record their runs, and processes that are killed during a
transfer.
"""

import contextlib
import io
import json
import os
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from unspool import Spooler, points, registry, settings
from unspool.address import Address, name_of
from unspool.backends.base import Backend
from unspool.cli import main
from unspool.message import State
from unspool.testing import run_all

from ..nats.conftest import queue_on
from ..nats.fixtures import nats_server
from ..postgres.conftest import address, database, server, wait_for_ends

__all__ = ["KEY", "Ends", "address", "database", "ends", "nats_server", "server"]

KEY = "a key that both ends have and nobody else"
ran: Counter[str] = Counter()


@Spooler.task
def work(name: str) -> bool:
    """Record a run."""
    ran[name] += 1
    return True


@Spooler.task(max_attempts=1)
def fail(name: str) -> bool:
    """Record a run, and fail for good."""
    ran[name] += 1
    raise ValueError(f"no luck with {name}")


class Ends:
    """Places that tasks are carried between: ``spool`` and ``other`` are directories, ``pg`` is in PostgreSQL, ``nats``
    in NATS, for tests that have it as a parameter."""

    def __init__(self, root: Path, pg: Address) -> None:
        self.root = root
        self.names = {end: str(root / end) for end in ("spool", "other")}
        self.names["pg"] = f"{pg.url}{'&' if '?' in pg.url else '?'}spooler={pg.spooler}"
        self.pg = pg.name
        self._url = pg.url
        settings.configure(secret_key=KEY)
        ran.clear()

    def backend(self, end: str) -> Backend:
        """Return the backend of one of the ends."""
        return registry.backend(name_of(self.names[end]))

    def burst(self, end: str) -> list[str]:
        """Run all ready tasks of one end, and return the verdicts."""
        return [run.verdict for run in run_all(self.backend(end))]

    def command(self, *words: str) -> tuple[int, str, str]:
        """Run a command in this process, and return its status, output and errors."""
        with contextlib.redirect_stdout(io.StringIO()) as said, contextlib.redirect_stderr(io.StringIO()) as complaints:
            status = main([self.names.get(word, word) for word in words])
        for end in self.names:  # what an ended process had taken is let go of
            self.backend(end).close()
        return status, said.getvalue(), complaints.getvalue()

    def move(self, source: str, destination: str, *words: str, status: int = 0) -> Any:
        """Move the tasks of one end to another, and return the report."""
        found, said, complaints = self.command("move", source, destination, "--json", *words)
        assert found == status, (said, complaints)
        return json.loads(said) if said else complaints

    def kill(self, point: str, *words: str, time: int = 1) -> None:
        """Run a command in another process, which is killed when it reaches a point for the given time."""
        pid = os.fork()
        if pid == 0:
            left = time

            def die(name: str) -> None:
                nonlocal left
                left -= name == point
                if not left:
                    os.kill(os.getpid(), signal.SIGKILL)

            try:
                points.reach = die
                main([self.names.get(word, word) for word in words])
            finally:
                os._exit(1)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        assert status == -signal.SIGKILL, f"{point} was never reached"
        with psycopg.connect(self._url, autocommit=True) as control:
            wait_for_ends(control)

    def counts(self, end: str) -> dict[State, int]:
        """Return the number of tasks in each state that has any."""
        return {state: count for state, count in self.backend(end).counts().tasks.items() if count}


@pytest.fixture
def ends(tmp_path: Path, address: Address, request: pytest.FixtureRequest) -> Iterator[Ends]:
    """The places of a test."""
    here = Ends(tmp_path, address)
    callspec = getattr(request.node, "callspec", None)
    if callspec and "nats" in callspec.params.values():
        here.names["nats"] = queue_on(request.getfixturevalue("nats_server").url)
    yield here
    for end in here.names:
        here.backend(end).close()
