"""Several hosts, forks, and servers without schedules for deferred tasks."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.nats.conftest import Open, until
from tests.runtime.conftest import PATIENCE, Place
from unspool import codec, inspection
from unspool.backends.nats import NatsBackend
from unspool.message import Claim, Message, State
from unspool.testing.exchange import claim_one, sealed, settle_one

APP = """
    @Spooler.task
    def waits(name): hold(name); note("ended", name); return True
"""


@pytest.fixture
def elsewhere(served: Place) -> Iterator["subprocess.Popen[bytes]"]:
    """Yield a supervisor on another host: in a pid namespace of its own, like a container."""
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("a namespace of its own needs root and unshare")
    served.write_app(APP)
    supervise = Path(__file__).parent.parent / "runtime" / "supervise.py"
    command = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child", sys.executable, str(supervise), served.app]
    with open(served.root / "elsewhere.log", "wb") as log:
        process = subprocess.Popen(command, cwd=served.root, env=served.env, stdout=log, stderr=log)
    yield process
    process.kill()
    process.wait(PATIENCE)


def test_another_host(served: Place, backend: NatsBackend, elsewhere: "subprocess.Popen[bytes]") -> None:
    """Workers of another host are listed with its name.

    Their task is taken over within leases of its death, not earlier.
    """
    served.gate("long")
    served.call("waits('long')")
    served.wait_for_line("begun long")
    until(lambda: [info.role for info in backend.live() if info.host and info.ref] == ["worker"])
    assert backend.counts().tasks[State.RUNNING] == 1
    here = served.run()
    here.wait_for_message("started")
    elsewhere.kill()
    began = time.monotonic()
    served.wait_for_line("begun long", 2)
    assert time.monotonic() - began < 4 * backend.cluster.lease
    until(lambda: not [info for info in backend.live() if info.host])
    served.open_gate("long")
    here.wait_for_verdict("processed")
    assert here.stop() == 0
    (run,) = [record for record in inspection.runs(backend) if record.verdict == "processed"]
    assert run.attempt == 2


def test_a_late_verdict_is_refused(url: str, opened: Open, caplog: pytest.LogCaptureFixture) -> None:
    """If a run was taken over by another process, the end of the first one has no effect and is logged."""
    from unspool.backends.nats.jetstream import JetStream
    from unspool.backends.nats.runs import Process, Run
    from unspool.message import Ack, Bury

    one, other = opened(url), opened(url)
    one.send([sealed(codec.encode(Message("task")))])
    feed = one.feed()
    while not (tickets := feed.take(1)):
        feed.refresh()
    first = claim_one(one, tickets[0].ref)
    assert isinstance(first, Claim)
    names = one.cluster.names

    def vanish(stream: JetStream) -> None:
        """Return the record as it is read here if the host of its process does not report."""
        record = stream.last(names.state, names.run(first.ref))
        assert record is not None
        run = Run.of(record)
        assert run is not None
        cut_off = run._replace(process=Process("elsewhere", 1, "1")).dump()
        stream.publish(names.state, names.run(first.ref), cut_off)

    one.cluster.call(vanish)
    second = claim_one(other, first.ref)
    assert isinstance(second, Claim)
    assert (second.attempts, second.crashes) == (2, 1)
    settle_one(one, first, Bury("too late"))
    assert "was taken over or removed while this process was cut off" in caplog.text
    entry = inspection.find(one, first.id)
    assert entry is not None
    assert entry.state is State.RUNNING
    settle_one(other, second, Ack())
    assert inspection.find(one, first.id) is None
    feed.close()


def test_servers_that_keep_nothing_back(url: str, opened: Open) -> None:
    """Without schedules of the server, a deferred task is handed out, returned with a delay, and runs in time."""
    backend = opened(url, schedules=False, hold=0.5)
    due = time.time() + 4
    backend.send([sealed(codec.encode(Message("task", None, None, None, due)))])
    feed = backend.feed()
    tickets = []
    while not tickets:
        feed.refresh()
        assert not feed._held or time.time() > due - 2  # type: ignore[attr-defined]  # noqa: SLF001  # it is the server's meanwhile
        tickets = feed.take(1)
        time.sleep(0.01)
    assert 0 <= time.time() - due < 1
    feed.close()


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")  # of the test's own thread
def test_forks_with_a_busy_connection(backend: NatsBackend) -> None:
    """A process may fork while its threads send. Parent and children continue, each with its own connection."""
    backend.send([sealed(codec.encode(Message("first")))])
    ended = threading.Event()
    sent = [1]

    def send() -> None:
        while not ended.is_set():
            backend.send([sealed(codec.encode(Message("more")))])
            sent[0] += 1

    thread = threading.Thread(target=send)
    thread.start()
    children = []
    for number in range(30):
        pid = os.fork()
        if pid == 0:
            try:
                if number % 10 == 0:
                    backend.send([sealed(codec.encode(Message("child")))])
            finally:
                os.kill(os.getpid(), signal.SIGKILL)
        children.append(pid)
        os.waitpid(pid, 0)
    ended.set()
    thread.join(PATIENCE)
    assert not thread.is_alive()
    until(lambda: backend.counts().tasks[State.READY] == sent[0] + 3)
