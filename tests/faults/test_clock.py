"""The clock is set forward or back by an hour, and files have times of 1970 and 2100: nothing is lost, and it is
logged.
"""

import os
import struct
import time
from pathlib import Path

import pytest

from unspool import inspection
from unspool.backends.change import RunNow
from unspool.message import State

from ..runtime.conftest import Place

SUPERVISE = """
import json, logging, os, struct, sys, time
from unspool import registry
from unspool.backends.spool import SpoolBackend
from unspool.runtime.supervisor import Options, Supervisor

class Lines(logging.Handler):
    def emit(self, record):
        fields = {"message": record.getMessage(), **getattr(record, "unspool", {})}
        os.write(2, json.dumps(fields).encode() + b"\\n")

logging.getLogger("unspool").addHandler(Lines())
logging.getLogger("unspool").setLevel(logging.INFO)
clock = lambda: time.time() + struct.unpack("d", open(os.environ["CLOCK"], "rb").read())[0]
backend = SpoolBackend(os.environ["UNSPOOL_SPOOLERS"], clock=clock)
Supervisor(sys.argv[1], [backend], Options(), seal=registry.seal, clock=clock).run()
"""


def set_clock(place: Place, ahead: float) -> None:
    """Set the clock of supervisor and worker."""
    draft = place.root / "clock.new"
    draft.write_bytes(struct.pack("d", ahead))
    draft.rename(place.root / "clock")


@pytest.fixture
def skewed(place: Place) -> Place:
    """A place whose supervisors have a clock that can be set."""
    place.env["CLOCK"] = str(place.root / "clock")
    (place.root / "supervise.py").write_text(SUPERVISE)
    place.supervise = place.root / "supervise.py"
    set_clock(place, 0.0)
    place.write_app("""
    @Spooler.task
    def mark(name): note(name); return True
    @Spooler.task(timeout=30)
    def limited(name): hold(name); return True
    @Spooler.task
    def crash():
        note("crash")
        if len(open(os.environ["ORACLE"]).readlines()) < 4: os._exit(1)
        return True
    """)
    return place


def test_set_forward_in_mid_task(skewed: Place) -> None:
    """A run with a time limit does not end early, and tasks that were deferred for half an hour are due."""
    skewed.gate("gate")
    skewed.call("from datetime import timedelta\nmark.using(postpone=timedelta(minutes=30))('late'); limited('gate')")
    running = skewed.run()
    skewed.wait_for_line("begun gate")
    set_clock(skewed, 3600.0)
    skewed.call("mark('next')")  # an event, by which the supervisor sees the time
    running.wait_for_message("the clock was set forward by 3600 s")
    skewed.open_gate("gate")
    for _ in range(3):
        running.wait_for_verdict("processed")
    assert "timeout" not in running.verdicts()
    assert running.stop() == 0
    assert sorted(skewed.lines()) == ["begun gate", "late", "next"]


def test_set_back_in_mid_task(skewed: Place) -> None:
    """It is logged, and workers that die are replaced. Earlier tasks wait for their time, or for ``unspool retry``.
    When the clock is right again, all of them run.
    """
    skewed.gate("gate")
    skewed.call("limited('gate')")
    running = skewed.run()
    skewed.wait_for_line("begun gate")
    set_clock(skewed, -3600.0)
    skewed.call("mark('event')")
    line = running.wait_for_message("the clock was set back by 3600 s")
    assert "unspool retry" in line["message"]
    skewed.open_gate("gate")
    running.wait_for_verdict("processed", "limited")
    hour_ago = time.time() - 3700
    skewed.call("crash()")
    path = max(skewed.spool.glob("uwsgi_spoolfile_on_*"))
    path.rename(skewed.root / path.name)  # and back again, as if it had been sent then
    os.utime(skewed.root / path.name, (hour_ago, hour_ago))
    (skewed.root / path.name).rename(path)
    running.wait_for_verdict("processed", "crash")  # after two deaths
    set_clock(skewed, 0.0)
    skewed.call("mark('last')")
    while not {"event", "last"} <= set(skewed.lines()):
        running.wait_for_verdict("processed", "mark")
    assert running.stop() == 0


@pytest.mark.parametrize("year", [1970, 2100])
def test_odd_times_of_files(place: Place, year: int) -> None:
    """A task of 1970 runs now. A task of 2100 waits, is shown as deferred, and ``retry`` makes it due."""
    place.write_app("@Spooler.task\ndef mark(n): note(n); return True")
    place.call("mark(1); mark(2)")
    first = Path(sorted(entry.id for entry in inspection.tasks(place.backend))[0])
    os.utime(first, ((year - 1970) * 365.25 * 86400,) * 2)
    place.burst()
    if year == 2100:
        assert place.lines() == ["2"]
        assert place.backend.counts().tasks[State.DEFERRED] == 1
        place.backend.change(str(first), RunNow())
        place.burst()
    assert sorted(place.lines()) == ["1", "2"]
