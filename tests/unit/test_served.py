"""A spooler as its supervisor sees it."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from unspool import codec
from unspool.backends.change import Remove
from unspool.backends.spool import SpoolBackend
from unspool.message import Message, Record, RefusalKind, Verdict
from unspool.runtime.events import Begun, Refused
from unspool.runtime.patience import Patience
from unspool.runtime.process import Process
from unspool.runtime.report import Reader, Writer
from unspool.runtime.served import Served
from unspool.runtime.watchdog import Watchdog
from unspool.runtime.watches import Watches
from unspool.testing import FakeClock
from unspool.testing.exchange import sealed

PATIENCE = 30.0  # seconds after which an event that should come has not


@pytest.fixture
def clock() -> FakeClock:
    """The clock of the spooler."""
    return FakeClock()


@pytest.fixture
def watches() -> Iterator[Watches]:
    """The descriptors that a supervisor waits for."""
    watches = Watches()
    yield watches
    watches.close()


@pytest.fixture
def served(tmp_path: Path, clock: FakeClock, watches: Watches) -> Iterator[Served]:
    """A directory that is served."""
    served = Served(SpoolBackend(str(tmp_path / "mail"), clock=clock, durable=False), watches)
    refresh(served)
    yield served
    served.close(Patience(PATIENCE, lambda: False))
    served.backend.close()


def refresh(served: Served) -> None:
    """Process all changes."""
    served.refresh()
    while served.state.more:
        served.refresh()


def send(served: Served) -> str:
    """Send a task, and return its ref."""
    (id,) = served.backend.send([sealed(codec.encode(Message("m")))])
    return id.rpartition("/")[2]


def test_an_arrival_ends_the_wait(served: Served, watches: Watches) -> None:
    """The feed's descriptor is watched."""
    ref = send(served)
    assert len(watches.wait(PATIENCE)) == 1
    served.refresh()
    assert [ticket.ref for ticket in served.take(2)] == [ref]


def test_reports_outdate_the_state(served: Served) -> None:
    """After a report, the spooler must be refreshed before a wait. After ``take``, it need not be."""
    ref = send(served)
    for report in (served.release, lambda _: served.recheck(), lambda _: served.done(ref, None)):
        refresh(served)
        state = served.state
        tickets = served.take(2)
        assert ([state.head], state.ready, state.more) == (tickets, 1, False)
        assert served.state == state._replace(head=None, ready=0)
        report(tickets)
        assert served.state.more
    refresh(served)
    assert served.state.idle


def test_a_pause_is_logged_once(served: Served, caplog: pytest.LogCaptureFixture) -> None:
    """Its beginning and its end. Until the log line, the supervisor can take back the waiting tickets."""
    caplog.set_level("INFO")
    pausing = []
    for paused in (True, False):
        served.backend.switch(paused=paused)
        for _ in range(2):
            served.refresh()
            pausing.append(served.pausing)
            served.note_pause()
    assert pausing == [True, False, False, False]
    name = served.name
    assert caplog.messages == [
        f"paused {name}: no task is started until 'unspool resume --spooler {name}'",
        f"resumed {name}",
    ]


def test_a_directory_that_is_back_needs_new_workers(
    served: Served, watches: Watches, clock: FakeClock, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Its removal is logged, and its return. The supervisor is registered in the new one, and watches it."""

    def is_another() -> bool:
        refresh(served)
        return served.note_absence()

    shutil.rmtree(tmp_path / "mail")
    assert not is_another()
    assert not is_another()
    other = SpoolBackend(served.name, clock=clock, durable=False)
    other.send([sealed(codec.encode(Message("m")))])
    other.close()
    clock.advance(1_000)
    assert [is_another() for _ in range(4)].count(True) == 1
    name = served.name
    assert caplog.messages == [f"spooler {name} was removed; continuing when it is back", f"spooler {name} is back"]
    assert [info.pid for info in served.backend.live()] == [os.getpid()]
    ref = send(served)
    assert len(watches.wait(PATIENCE)) == 1
    served.refresh()
    assert ref in {ticket.ref for ticket in served.take(2)}


def test_refusals(served: Served, caplog: pytest.LogCaptureFixture) -> None:
    """A corrupt task gets a record. One that is not run is logged once, however often it is refused."""
    gone = Refused(0, "name", RefusalKind.GONE, None, "")
    unusable = Refused(0, "name", RefusalKind.UNUSABLE, None, "no\nway")
    corrupt = Refused(0, "name", RefusalKind.CORRUPT, None, "damaged")
    assert served.note_refusal(gone, 5.0) is None
    assert [served.note_refusal(unusable, 5.0) for _ in range(2)] == [None, None]
    id = f"{served.name}/name"
    record = Record(id, "?", Verdict.CORRUPT, 0, 5.0, 0.0, os.getpid(), "damaged")
    assert served.note_refusal(corrupt, 5.0) == record
    assert caplog.messages == [f"task {id} is not run: no\nway"]


def test_a_task_whose_worker_died(served: Served, clock: FakeClock) -> None:
    """It has a record with the start and duration of its run, unless it has left the queue."""
    ref = send(served)
    reader, writer = os.pipe()
    process = Process(7, [served.backend.register("worker")], Reader(reader, 1), Watchdog(5.0))
    try:
        Writer(writer).write(Begun(0, ref, clock() - 3.0))
        process.read(0.0)
        crash = served.note_crash(0, ref, process, "was killed by SIGKILL", clock())
        assert crash is not None
        record, until = crash
        assert (record.id, record.verdict, record.pid) == (f"{served.name}/{ref}", Verdict.CRASHED, 7)
        assert (record.duration, record.error) == (3.0, "its worker was killed by SIGKILL")
        assert until == clock()
        process.overrun.add((0, ref))
        timed_out = served.note_crash(0, ref, process, "was killed", clock())
        assert timed_out is not None
        assert timed_out[0].verdict == Verdict.TIMEOUT
        served.backend.change(f"{served.name}/{ref}", Remove())
        assert served.note_crash(0, ref, process, "was killed", clock()) is None
    finally:
        os.close(writer)
        process.close()
