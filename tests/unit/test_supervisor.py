"""What the supervisor decides without a process. Its parts are private, because only its workers show the rest."""

import errno
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from unspool.backends.spool import SpoolBackend
from unspool.message import Envelope
from unspool.runtime import supervisor as module
from unspool.runtime.patience import Patience
from unspool.runtime.sidecar import Sidecar
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


def test_a_ticket_that_no_worker_takes_is_given_back(
    backend: Withholding, supervisor: Supervisor, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The supervisor wakes for it although nothing else happens, and does not take it again at once."""
    worker.busy = True
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


def test_nothing_is_taken_before_a_worker_is_ready(
    backend: Withholding, supervisor: Supervisor, worker: Worker
) -> None:
    """Other supervisors may have idle workers, while those of this one import, are stopped, or leave."""
    backend.send([Envelope({"msg": b"task"}, b"", None, None)])
    while supervisor._feeds[0].peek() is None:
        supervisor._refresh()
    for state in ("ready", "stopped", "leaving"):
        setattr(worker, state, state != "ready")
        supervisor._fill()
        assert len(supervisor._pool.queue) == 0
        setattr(worker, state, state == "ready")
    supervisor._fill()
    assert len(supervisor._pool.queue) == 1


def test_no_process_for_the_sidecar(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """The kernel refuses a process. The supervisor goes on, and tries again later."""

    def refuse() -> int:
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    before = len(os.listdir("/proc/self/fd"))
    sidecar = Sidecar(lambda end: os.read(end, 1))
    with monkeypatch.context() as refused:
        refused.setattr(os, "fork", refuse)
        sidecar.turn(lambda: None)
        assert sidecar.wait()
    assert "trying again" in caplog.text
    assert len(os.listdir("/proc/self/fd")) == before
    monkeypatch.setattr(sidecar, "_next_start", 0.0)
    sidecar.turn(lambda: None)
    assert sidecar.wait() is None
    sidecar.close(Patience(10.0, lambda: False))
