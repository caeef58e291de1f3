"""What the supervisor decides without a process. Its parts are private, because only its workers show the rest."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from unspool.backends.spool import SpoolBackend
from unspool.message import Envelope
from unspool.runtime import supervisor as module
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


def test_a_ticket_that_no_worker_takes_is_given_back(
    backend: Withholding, supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The supervisor wakes for it although nothing else happens, and does not take it again at once."""
    supervisor._rate = 1000.0  # as after many short runs
    backend.send([Envelope({"msg": b"task"}, b"", None, None)])
    while supervisor._feeds[0].peek() is None:
        supervisor._refresh()
    supervisor._fill()
    assert len(supervisor._pool.queue) == 1
    wait = supervisor._timeout()
    assert wait is not None
    assert wait <= module._STUCK
    supervisor._fill()
    now = time.monotonic() + module._STUCK
    monkeypatch.setattr(module.time, "monotonic", lambda: now)
    supervisor._fill()
    assert len(supervisor._pool.queue) == 0
