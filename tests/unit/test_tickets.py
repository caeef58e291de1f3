"""How tickets get into the queue and back, decided without a process."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from unspool.backends.spool import SpoolBackend
from unspool.message import Content
from unspool.runtime.listeners import Statistics
from unspool.runtime.patience import Patience
from unspool.runtime.queue import Queue
from unspool.runtime.served import Served
from unspool.runtime.tickets import Tickets
from unspool.runtime.watches import Watches
from unspool.testing.exchange import sealed


class Withholding(SpoolBackend):
    """A backend whose tickets are withheld from other supervisors."""

    capabilities = SpoolBackend.capabilities._replace(withholds=True)


class Worker:
    """A process that is ready, and takes no ticket."""

    ready, leaving, stopped, ahead = True, False, False, None

    def shown(self) -> set[tuple[int, str]]:
        return set()


class Workers(list[Worker]):
    """A pool of these processes, with a real queue."""

    stopping = False

    def __init__(self, *workers: Worker) -> None:
        super().__init__(workers)
        self.queue = Queue()

    def processes(self) -> Iterator[Worker]:
        return iter(self)

    def ready(self) -> list[Worker]:
        return [one for one in self if one.ready and not (one.leaving or one.stopped)]


@pytest.fixture
def spooler(tmp_path: Path) -> Iterator[Served]:
    """A spooler without tasks, as its supervisor sees it."""
    watches = Watches()
    backend = Withholding(str(tmp_path / "mail"), durable=False)
    made = Served(backend, watches)
    yield made
    made.close(Patience(1.0, lambda: False))
    backend.close()
    watches.close()


@pytest.fixture
def pool() -> Iterator[Workers]:
    """A pool of one process."""
    made = Workers(Worker())
    yield made
    made.queue.close_reader()
    made.queue.close_writer()


@pytest.fixture
def tickets(spooler: Served, pool: Workers) -> Tickets:
    """The tickets of the spooler and the pool."""
    return Tickets([spooler], pool, Statistics(), time.time)  # type: ignore[arg-type]


def test_nothing_is_taken_before_a_worker_is_ready(spooler: Served, pool: Workers, tickets: Tickets) -> None:
    """Other supervisors may have idle workers, while those of this one are importing, stopped or ending."""
    spooler.backend.send([sealed(Content({"msg": b"task"}, b"", None, None))])
    while spooler.state.head is None:
        spooler.refresh()
    (worker,) = pool
    for state in ("ready", "stopped", "leaving"):
        setattr(worker, state, state != "ready")
        tickets.fill()
        assert len(pool.queue) == 0
        setattr(worker, state, state == "ready")
    tickets.fill()
    assert len(pool.queue) == 1


@pytest.fixture
def filled(spooler: Served, pool: Workers, tickets: Tickets) -> Tickets:
    """Two tasks of different priorities are taken for two workers."""
    pool.append(Worker())
    spooler.backend.send([sealed(Content({"msg": b"task"}, b"", priority, None)) for priority in (1, 5)])
    while spooler.state.more or spooler.state.ready < 2:
        spooler.refresh()
    tickets.fill()
    assert len(pool.queue) == 2
    return tickets


def test_a_ticket_in_the_queue_is_not_more_urgent_than_the_queue(
    spooler: Served, pool: Workers, filled: Tickets
) -> None:
    """The head of the last state is in the queue, so the supervisor takes no ticket back."""
    filled.fill()
    assert len(pool.queue) == 2
    assert not spooler.state.more, "tickets were released"


def test_tickets_that_a_pause_takes_back_are_refreshed(spooler: Served, pool: Workers, filled: Tickets) -> None:
    """A supervisor with ``burst`` would otherwise wait for the next scan to find that nothing is left to do."""
    spooler.backend.switch(paused=True)
    while not spooler.pausing:
        spooler.refresh()
    filled.recall()
    assert len(pool.queue) == 0
    assert spooler.state.more
    assert not spooler.state.idle
    spooler.refresh()
    assert not spooler.state.more
    assert spooler.state.idle
