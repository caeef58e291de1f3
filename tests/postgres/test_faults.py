"""Killed processes and servers: no acknowledged task is lost, and repeated runs are counted."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from unspool import inspection
from unspool.address import Address, parse
from unspool.backends.postgres import feed, machine
from unspool.message import Ack, Claim, Content, State, Verdict
from unspool.runtime.patience import Patience
from unspool.runtime.served import Served
from unspool.runtime.watches import Watches
from unspool.testing.exchange import claim_one, sealed, settle_one

from ..runtime.conftest import PATIENCE, Place
from .conftest import look_at, migrate, place_at, queue_in, url_of, wait_until
from .proxy import Proxy
from .server import Server, serving

HELD = """
    @Spooler.task(retry_delay=0.1, retry_jitter=0)
    def held(name):
        hold(name)
        note("ended", name)
        return True

    @Spooler.task
    def noted(word):
        note(word)
        return True
"""

PRODUCER = """
import os, sys, time
from tasks import noted
from unspool.errors import SpoolerUnusable
from unspool.testing.exchange import claim_one, settle_one
fd = os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
number = 0
while number < int(sys.argv[2]):
    try:
        noted(str(number))
    except SpoolerUnusable:
        os.write(fd, b"refused\\n")
        time.sleep(0.05)  # nobody says when a server is back
        number += 1  # whether it was kept is not known: it is not sent again
        continue
    os.write(fd, b"%d\\n" % number)
    number += 1
"""


@pytest.fixture
def proxy(server: Server) -> Iterator[Proxy]:
    """Yield a proxy for the server, which a test can interrupt."""
    proxy = Proxy(server.port)
    yield proxy
    proxy.close()


def worker_of(place: Place, address: Address) -> int:
    """Return the pid of the process that runs a task now."""
    (info,) = [info for info in look_at(address).live() if info.role == "worker" and info.ref]
    return info.pid


def test_a_stop_does_not_wait_for_a_server_that_does_not_answer(place: Place, address: Address, server: Server) -> None:
    """It is neither there nor away: the supervisor says so and ends, with status 0."""
    place.write_app(HELD)
    running = place.run()
    place.call("noted('one')")
    running.wait_for_verdict(Verdict.PROCESSED)
    with server.frozen():
        running.signal(signal.SIGQUIT)
        assert running.end(within=30) == 0
    said = [line["message"] for line in running.seen]
    assert f"spooler {address.name} does not answer; not waiting for it" in said


def test_a_killed_worker_s_task_runs_again_at_once(place: Place, address: Address) -> None:
    """The server sees the end of its session; the supervisor, which lives, finds the task and nothing else."""
    place.write_app(HELD)
    place.gate("one")
    running = place.run()
    place.call("held('one')")
    place.wait_for_line("begun one")
    os.kill(worker_of(place, address), signal.SIGKILL)
    assert running.wait_for_verdict(Verdict.CRASHED)["attempt"] == 1
    place.wait_for_line("begun one", times=2)
    place.open_gate("one")
    assert running.wait_for_verdict(Verdict.PROCESSED)["attempt"] == 2
    assert running.stop() == 0
    assert [(run.verdict, run.attempt) for run in inspection.runs(look_at(address))] == [
        ("processed", 2),
        ("crashed", 1),
    ]


def test_a_killed_supervisor_leaves_its_workers_task_alone(place: Place, address: Address) -> None:
    """A worker keeps its lock if its supervisor is killed. Another supervisor runs all other tasks at once."""
    place.write_app(HELD)
    place.gate("long")
    first = place.run()
    place.call("held('long')")
    place.wait_for_line("begun long")
    first.signal(signal.SIGKILL)
    first.process.wait(PATIENCE)
    second = place.run()
    place.call("noted('rest')")
    second.wait_for_verdict(Verdict.PROCESSED, "noted")
    assert look_at(address).counts().tasks[State.RUNNING] == 1
    place.open_gate("long")
    place.wait_for_line("ended long")
    place.call("noted('after')")
    second.wait_for_verdict(Verdict.PROCESSED, "noted")
    assert second.stop() == 0
    assert place.lines().count("begun long") == 1
    assert sum(look_at(address).counts().tasks.values()) == 0


def test_whoever_was_cut_off_is_refused(
    place: Place, address: Address, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its session ends. What its workers have not begun is given to others at once, and what they run after a while:
    then its result is not taken, and it works on."""
    place.write_app(HELD)
    place.gate("one")
    place.env["UNSPOOL_SPOOLERS"] = url_of(address, proxy.port)
    lonely = place.run()
    place.call("held('one')")
    place.wait_for_line("begun one")
    proxy.cut()
    with contextlib.closing(look_at(address)) as backend:
        other = backend.feed()
        assert isinstance(other, feed.PostgresFeed)
        wait_until(lambda: other.refresh() and other._absent)  # noqa: SLF001  it has found no live supervisor
        assert other.take(1) == []
        monkeypatch.setattr(feed, "GRACE", 0.0)
        monkeypatch.setattr(machine, "_space", lambda: "another machine")  # which does not see its processes
        wait_until(lambda: other.refresh().head)
        (ticket,) = other.take(1)
        claim = claim_one(backend, ticket.ref)
        assert isinstance(claim, Claim)
        assert claim.attempts == 2
        settle_one(backend, claim, Ack())
        other.close()
    proxy.restore()
    place.open_gate("one")
    lonely.wait_for(lambda line: "its claim was lost meanwhile" in str(line["message"]))
    place.env["UNSPOOL_SPOOLERS"] = url_of(address)
    place.call("noted('again')")
    lonely.wait_for_verdict(Verdict.PROCESSED, "noted")
    assert lonely.stop() == 0
    assert sum(look_at(address).counts().tasks.values()) == 0


def test_a_cut_off_worker_that_nobody_replaced_is_heard(place: Place, address: Address, proxy: Proxy) -> None:
    """The end of a run that arrives late is settled if no other process has taken the task."""
    place.write_app(HELD)
    place.gate("one")
    place.env["UNSPOOL_SPOOLERS"] = url_of(address, proxy.port)
    lonely = place.run()
    place.call("held('one')")
    place.wait_for_line("begun one")
    proxy.cut()
    lonely.wait_for(lambda line: "is away" in str(line["message"]))
    proxy.restore()
    lonely.wait_for(lambda line: "is back" in str(line["message"]))
    place.open_gate("one")
    assert lonely.wait_for_verdict(Verdict.PROCESSED, "held")["attempt"] == 1
    assert lonely.stop() == 0
    assert place.lines().count("begun one") == 1
    assert sum(look_at(address).counts().tasks.values()) == 0


def test_a_server_that_cannot_be_reached_when_tickets_are_taken(address: Address, proxy: Proxy) -> None:
    """The supervisor refreshes the spooler before it waits, and so tries again soon."""
    backend = look_at(parse(url_of(address, proxy.port)))
    watches = Watches()
    served = Served(backend, watches)
    backend.send([sealed(Content({"msg": b"task"}, b"", None, None))])
    wait_until(lambda: served.refresh() or served.state.head)
    proxy.cut()
    assert served.take(1) == []
    assert (served.state.more, served.state.head) == (True, None)
    served.refresh()
    assert (served.state.more, served.state.available) == (False, False)
    assert served.state.next_due is not None
    assert served.state.next_due < time.time() + 1
    proxy.restore()
    wait_until(lambda: served.refresh() or served.state.head)
    assert served.state.available
    assert len(served.take(1)) == 1
    served.close(Patience(PATIENCE, lambda: False))
    watches.close()
    backend.close()


def test_the_server_is_killed_and_restarted_under_load(tmp_path: Path) -> None:
    """All its processes are killed, twice, while two supervisors run what a producer sends: what was acknowledged ran,
    and what ran twice was under way when the server died, or ended in the last moment before."""
    count, acknowledged = 800, tmp_path / "acknowledged"
    with serving(fsync="on") as server:
        migrate(server.url())
        address = queue_in(server.url())
        with place_at(tmp_path, address) as place:
            place.write_app(HELD)
            running = [place.run("--processes", "2"), place.run()]
            producer = subprocess.Popen(
                [sys.executable, "-c", PRODUCER, str(acknowledged), str(count)], cwd=tmp_path, env=place.env
            )
            for mark in ("100", "500"):
                place.wait_for_line(mark)
                server.kill()
                server.start()
            assert producer.wait(2 * PATIENCE) == 0
            for one in running:
                assert one.stop() == 0
            place.burst()
            kept = {line for line in acknowledged.read_text().split() if line != "refused"}
            ran = [line for line in place.lines() if line.isdigit()]
            lost, twice = kept - set(ran), len(ran) - len(set(ran))
            print(f"acknowledged {len(kept)}, lost {len(lost)}, run twice {twice}")
            assert not lost
            assert twice <= count // 2  # some hundred milliseconds of ends go with each kill
            assert sum(look_at(address).counts().tasks.values()) == 0
