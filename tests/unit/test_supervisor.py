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
    while supervisor._spoolers[0].feed.peek() is None:
        supervisor._refresh()
    for state in ("ready", "stopped", "leaving"):
        setattr(worker, state, state != "ready")
        supervisor._fill()
        assert len(supervisor._pool.queue) == 0
        setattr(worker, state, state == "ready")
    supervisor._fill()
    assert len(supervisor._pool.queue) == 1
