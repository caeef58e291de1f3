"""What the supervisor decides without a process. Its parts are private, because only its workers show the rest."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from unspool.backends.spool import SpoolBackend
from unspool.message import Envelope
from unspool.runtime.supervisor import Options, Supervisor


class Withholding(SpoolBackend):
    """A backend whose other supervisors cannot have what this one has taken."""

    capabilities = SpoolBackend.capabilities._replace(withholds=True)


@pytest.fixture
def backend(tmp_path: Path) -> Iterator[Withholding]:
    """Without tasks."""
    made = Withholding(str(tmp_path / "mail"), durable=False)
    yield made
    made.close()


@pytest.fixture
def supervisor(backend: Withholding) -> Iterator[Supervisor]:
    """Without workers, so that nobody takes its tickets."""
    made = Supervisor("app", [backend], Options())
    yield made
    made._close()


class Worker:
    """A process that is ready."""

    ready, leaving, stopped, busy, ahead = True, False, False, False, None

    def shown(self) -> set[tuple[int, str]]:
        return {(0, "long")} if self.busy else set()

    def next_watch(self) -> None:
        return None


@pytest.fixture
def worker(supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch) -> Worker:
    """The only one, which takes no ticket."""
    made = Worker()
    monkeypatch.setattr(supervisor._pool, "processes", lambda: [made])
    return made


def test_nothing_is_taken_before_a_worker_is_ready(
    backend: Withholding, supervisor: Supervisor, worker: Worker
) -> None:
    """Other supervisors may have idle workers, while those of this one import, are stopped, or leave."""
    backend.send([Envelope({"msg": b"task"}, b"", None, None)])
    while supervisor._spoolers[0].state.head is None:
        supervisor._refresh()
    for state in ("ready", "stopped", "leaving"):
        setattr(worker, state, state != "ready")
        supervisor._tickets.fill()
        assert len(supervisor._pool.queue) == 0
        setattr(worker, state, state == "ready")
    supervisor._tickets.fill()
    assert len(supervisor._pool.queue) == 1


@pytest.fixture
def filled(backend: Withholding, supervisor: Supervisor, worker: Worker, monkeypatch: pytest.MonkeyPatch) -> Supervisor:
    """A supervisor that has taken two tasks of different priorities for its two workers."""
    monkeypatch.setattr(supervisor._pool, "processes", lambda: [worker, worker])
    backend.send([Envelope({"msg": b"task"}, b"", priority, None) for priority in (1, 5)])
    while supervisor._more or supervisor._spoolers[0].state.ready < 2:
        supervisor._refresh()
    supervisor._tickets.fill()
    assert len(supervisor._pool.queue) == 2
    return supervisor


def test_a_ticket_in_the_queue_is_not_more_urgent_than_the_queue(filled: Supervisor) -> None:
    """The head of the last state is in the queue, so it takes no ticket back."""
    filled._tickets.fill()
    assert len(filled._pool.queue) == 2
    assert not filled._more, "tickets were released"


def test_tickets_that_a_pause_takes_back_are_refreshed(backend: Withholding, filled: Supervisor) -> None:
    """A supervisor with ``burst`` would otherwise wait for the next scan to find that nothing is left to do."""
    backend.control.pause()
    while not filled._spoolers[0].state.paused:
        filled._refresh()
    assert len(filled._pool.queue) == 0
    assert filled._more
    assert not filled._spoolers[0].state.idle
    filled._refresh()
    assert not filled._more
    assert filled._spoolers[0].state.idle
