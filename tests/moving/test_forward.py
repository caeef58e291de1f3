"""Store and forward: senders write to a directory, and tasks are forwarded to a server that may be away."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from unspool import Spooler, inspection, points, routes, settings
from unspool.errors import ConfigurationError, PayloadRefused
from unspool.message import Message, State

from ..cli.conftest import SCRIPT, Running
from ..postgres.conftest import migrate
from ..postgres.server import Server, serving
from .conftest import KEY, Ends, ran, work

POINTS = [name for name in points.NAMES if name.startswith(("carry.", "leave.", "left.", "gone."))]


@pytest.fixture
def forwarding(ends: Ends) -> Ends:
    """A directory that is forwarded to the queue in PostgreSQL."""
    settings.configure(spoolers=[ends.names["spool"]], forward={"spool": ends.names["pg"]})
    return ends


@pytest.mark.parametrize("there", ["pg", "nats"])
@pytest.mark.parametrize("point", POINTS)
def test_killed(ends: Ends, point: str, there: str) -> None:
    """A forwarder that is killed at any point, and another one after it, transfer each task once, whatever runs at the
    destination meanwhile.
    """
    settings.configure(spoolers=[ends.names["spool"]], forward={"spool": ends.names[there]})
    names = [f"task {number}" for number in range(4)]
    for name in names:
        work(name)
    ends.kill(point, "forward", "--burst")
    ends.burst(there)
    assert ends.command("forward", "--burst")[0] == 0
    ends.burst(there)
    assert ran == dict.fromkeys(names, 1)
    assert ends.counts("spool") == ends.counts(there) == {}


def test_all_that_waits_goes_in_order(forwarding: Ends) -> None:
    """Tasks are forwarded by priority and age, also those that are not due, which keep their due times."""
    for name, priority in [("c", None), ("a", 1), ("d", None), ("b", 1)]:
        work.using(priority=priority)(name)
    work.using(postpone=timedelta(days=2))("later")
    (entry,) = inspection.tasks(forwarding.backend("spool"), frozenset({State.DEFERRED}))
    assert forwarding.command("forward", "--burst")[0] == 0
    assert forwarding.counts("spool") == {}
    forwarding.burst("pg")
    assert list(ran) == ["a", "b", "c", "d"]
    (there,) = inspection.tasks(forwarding.backend("pg"))
    assert there.due == pytest.approx(entry.due, abs=0.01)


def test_what_cannot_go_is_set_aside(forwarding: Ends) -> None:
    """An unsigned task does not stop the others: it is set aside in the directory with the reason, and logged."""
    settings.configure(secret_key=None)
    envelope_file = Spooler.send_many(
        [Message("plain", {"a": 1}, serializer="json")], spooler=forwarding.names["spool"]
    )[0]
    settings.configure(secret_key=KEY)
    work("good")
    status, _, complaints = forwarding.command("forward", "--burst")
    assert status == 0
    assert f"task {envelope_file} is not forwarded: unsigned" in complaints
    assert forwarding.counts("spool") == {State.CORRUPT: 1}
    assert forwarding.counts("pg") == {State.READY: 1}


def test_paused(forwarding: Ends) -> None:
    """A pause of the directory stops its forwarding."""
    work("one")
    forwarding.backend("spool").switch(paused=True)
    assert forwarding.command("forward", "--burst")[0] == 0
    assert forwarding.counts("spool") == {State.READY: 1}
    forwarding.backend("spool").switch(paused=False)
    forwarding.command("forward", "--burst")
    assert forwarding.counts("spool") == {}


def test_unsigned_pickles_are_refused_when_they_are_sent(forwarding: Ends) -> None:
    """The directory refuses what the server would refuse, so the sender gets the error."""
    settings.configure(secret_key=None)
    with pytest.raises(PayloadRefused, match="UNSPOOL_SECRET_KEY"):
        work("one")


def test_what_is_seen(forwarding: Ends) -> None:
    """status and doctor show the destination of a directory. ls lists the tasks that are still in it."""
    work("one")
    (row,) = json.loads(forwarding.command("status", "--json")[1])["spoolers"]
    assert (row["forward"], row["ready"], row["workers"]) == (forwarding.pg, 1, 0)
    assert forwarding.pg in forwarding.command("status")[1]
    assert "no forwarder to" in forwarding.command("doctor")[1]
    assert len(forwarding.command("ls")[1].splitlines()) == 1


def test_bad_settings(ends: Ends) -> None:
    """Each mistake has its line. Without the setting, there is nothing to forward."""
    for wrong in ("mail", "mail=/srv/other", 5, {"mail": "/srv"}, "mysql://db", "a=nats://a,a=nats://b"):
        with pytest.raises(ConfigurationError, match="forward"):
            settings.configure(forward=wrong)
    status, _, complaints = ends.command("forward", "--spooler", "spool")
    assert status == 2
    assert "UNSPOOL_FORWARD" in complaints


def test_the_setting(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    """One URL for all directories, each to the queue of the same name, or a URL for each. No password is shown."""
    monkeypatch.setenv("UNSPOOL_FORWARD", "postgresql://me:sesame@db/app")
    assert routes.destination("/srv/mail") == "postgresql://db/app/mail"
    assert routes.destination("/srv/bulk") == "postgresql://db/app/bulk"
    assert routes.destination("postgresql://db/app/mail") is None
    monkeypatch.setenv("UNSPOOL_FORWARD", "mail=postgresql://db/app?spooler=post,bulk=nats://a,b")
    settings.configure()
    assert routes.destination("/srv/mail") == "postgresql://db/app/post"
    assert routes.destination("/srv/bulk") == "nats://a,b/bulk"
    assert routes.destination("/srv/other") is None
    assert "sesame" not in repr(settings.current())


# --- with a server that goes and comes back


@pytest.fixture(scope="module")
def own() -> Iterator[Server]:
    """A server that these tests stop and start."""
    with serving() as server:
        migrate(server.url())
        yield server


def start(command: list[str], ends: Ends) -> Running:
    """Start a command that runs beside the test."""
    return Running(command, ends.root, {**os.environ, **environment(ends)})


def environment(ends: Ends) -> dict[str, str]:
    """Return the settings of a test, for a separate process."""
    return {"UNSPOOL_SPOOLERS": ends.names["spool"], "UNSPOOL_FORWARD": f"spool={ends.names['pg']}",
            "UNSPOOL_SECRET_KEY": KEY}  # fmt: skip


def test_the_server_goes_and_comes_back(ends: Ends, own: Server) -> None:
    """While the server is away, sending works as usual and one line is logged. When it is back, each task arrives once.
    TERM ends the forwarder with status 0.
    """
    ends.names["pg"] = f"{own.url()}?spooler=away"
    settings.configure(spoolers=[ends.names["spool"]], forward=f"spool={ends.names['pg']}")
    work("before")
    forwarder = start([SCRIPT, "forward"], ends)
    try:
        forwarder.wait_for("1 task of")
        own.stop()
        started = time.perf_counter()
        for number in range(20):
            work(f"away {number}")
        assert time.perf_counter() - started < 5, "senders wait for nobody"
        assert "WARNING" in forwarder.wait_for("tasks are kept in")
        own.start()
        assert "WARNING" in forwarder.wait_for("is back")
        while sum(ends.backend("spool").counts().tasks.values()):
            forwarder.wait_for("forwarded to")
        work("after")
        forwarder.wait_for("1 task of")
        forwarder.process.send_signal(signal.SIGTERM)
        assert forwarder.end() == 0
        assert sum("kept in" in line for line in forwarder.seen) == 1
    finally:
        forwarder.close()
    ends.burst("pg")
    assert ran == dict.fromkeys(["before", "after", *(f"away {number}" for number in range(20))], 1)


APP = """
import os
from unspool import Spooler

@Spooler.task
def first(name):
    second(name + " and more")
    return True

@Spooler.task
def second(name):
    fd = os.open("oracle", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(fd, name.encode() + b"\\n")
    os.close(fd)
    return True
"""


def test_a_worker_forwards_as_well(forwarding: Ends) -> None:
    """``unspool run`` with such a directory forwards its tasks and runs them at the destination, also those that tasks
    send. A killed forwarder is replaced, and it ends with the supervisor.
    """
    (forwarding.root / "app.py").write_text(APP)
    command = [SCRIPT, "run", "app"]
    send = [sys.executable, "-c", "import app; app.first('one')"]
    env = {**os.environ, **environment(forwarding)}
    running = start(command, forwarding)
    try:
        running.wait_for("forwarding")
        subprocess.run(send, cwd=forwarding.root, env=env, check=True)
        running.wait_for(lambda line: "app:second" in line and "processed" in line)
        (info,) = [one for one in forwarding.backend("spool").live() if one.role == "forwarder"]
        os.kill(info.pid, signal.SIGKILL)
        running.wait_for("the process that forwards was killed by SIGKILL; a new one replaces it")
        subprocess.run(send, cwd=forwarding.root, env=env, check=True)
        running.wait_for(lambda line: "app:second" in line and "processed" in line)
        running.process.send_signal(signal.SIGTERM)
        assert running.end() == 0
    finally:
        running.close()
    assert (forwarding.root / "oracle").read_text() == "one and more\n" * 2
    assert [one.role for one in forwarding.backend("spool").live()] == []
    assert forwarding.counts("spool") == forwarding.counts("pg") == {}


def test_a_worker_in_a_burst(forwarding: Ends) -> None:
    """With --burst, it forwards the waiting tasks, and then runs the tasks at the destination."""
    (forwarding.root / "app.py").write_text(APP)
    env = {**os.environ, **environment(forwarding)}
    subprocess.run([sys.executable, "-c", "import app; app.second('one')"], cwd=forwarding.root, env=env, check=True)
    subprocess.run([SCRIPT, "run", "app", "--burst"], cwd=forwarding.root, env=env, check=True)
    assert (forwarding.root / "oracle").read_text() == "one\n"


def test_a_server_that_is_away_at_the_start(ends: Ends) -> None:
    """``unspool run`` waits for it. With --burst or --require-ready, the status is 3. The tasks stay."""
    settings.configure(spoolers=[ends.names["spool"]], forward="postgresql://127.0.0.1:1/app")
    work("one")
    for option in ("--burst", "--require-ready"):
        status, _, complaints = ends.command("forward", option)
        assert status == 3
        assert "cannot be reached" in complaints
    assert ends.counts("spool") == {State.READY: 1}


def test_two_forwarders(forwarding: Ends) -> None:
    """Two forwarders share the work, and each task arrives once."""
    names = [f"{number}" for number in range(300)]
    settings.configure(durability="relaxed")
    work.enqueue_many([(name,) for name in names])
    both = [
        subprocess.Popen([sys.executable, "-m", "unspool", "forward", "--burst"], cwd=forwarding.root,
                         env={**os.environ, **environment(forwarding)}, stderr=subprocess.DEVNULL)
        for _ in range(2)
    ]  # fmt: skip
    assert [one.wait(60) for one in both] == [0, 0]
    forwarding.command("forward", "--burst")
    assert sum(forwarding.backend("spool").counts().tasks.values()) == 0
    assert not list(Path(forwarding.names["spool"]).glob(".unspool/l*/*/*"))
    forwarding.burst("pg")
    assert ran == dict.fromkeys(names, 1)
