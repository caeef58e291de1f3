"""Servers killed, restarted and cut off under load: what was acknowledged is run, and duplicates are counted.

The oracle is a synced file outside of NATS: the producer notes what it was told is kept, tasks note each run.
"""

import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.nats.conftest import Open, at, queue_on
from tests.nats.proxy import Proxy
from tests.nats.server import Cluster, Server
from tests.runtime.conftest import PATIENCE, Place
from unspool.message import State

APP = """
    @Spooler.task(max_attempts=50, retry_delay=0.1)
    def work(name): note("ran", name); return True
"""

PRODUCER = """
from tasks import *
from unspool.errors import SpoolerUnusable
def ran():
    with open(os.environ["ORACLE"]) as lines:
        return sum(line.startswith("ran") for line in lines)
n = 0
note("begins", 0)
while not os.path.exists(os.environ["ORACLE"] + ".enough"):
    try:
        work(n)
    except SpoolerUnusable as error:
        note("unknown", n)
    else:
        note("kept", n)
    n += 1
    while n % 20 == 0 and n - ran() > 60 and not os.path.exists(os.environ["ORACLE"] + ".enough"):
        time.sleep(0.01)  # workers keep up
"""


class Load:
    """A producer and a supervisor with two workers, for tests that disturb the server."""

    def __init__(self, place: Place, url: str, opened: Open) -> None:
        self.place = at(place, url)
        self.backend = opened(url)
        self.place.write_app(APP)
        self.running = self.place.run("--processes=2")
        self.producer = subprocess.Popen([sys.executable, "-c", PRODUCER], cwd=place.root, env=place.env)

    def goes_on(self, runs: int = 40) -> None:
        """Wait for a number of further runs."""
        before = self._ran()
        end = time.monotonic() + 2 * PATIENCE
        while self._ran() < before + runs:
            assert time.monotonic() < end, f"nothing goes on; {self.running.complaints}"
            time.sleep(0.02)

    def _ran(self) -> int:
        return sum(line.startswith("ran") for line in self.place.lines())

    def _tail(self) -> list[object]:
        """Return the end of the supervisor's log."""
        self.running.catch_up()
        return [line for line in self.running.seen if line.get("verdict") != "processed"][-20:]

    def settle(self) -> tuple[int, int, int]:
        """Stop the producer and run all tasks. Return how many were acknowledged, lost, and run more than once."""
        Path(f"{self.place.oracle}.enough").touch()
        assert self.producer.wait(2 * PATIENCE) == 0
        end = time.monotonic() + 2 * PATIENCE
        while sum(self.backend.counts().tasks.values()):
            assert time.monotonic() < end, (self.backend.counts().tasks, self.running.complaints, self._tail())
            time.sleep(0.1)
        assert self.running.stop() == 0
        assert self.backend.counts().tasks == dict.fromkeys(State, 0)
        lines = [line.split() for line in self.place.lines()]
        kept = {name for word, name in lines if word == "kept"}
        ran = Counter(name for word, name in lines if word == "ran")
        twice = sum(times - 1 for times in ran.values())
        lost = kept - set(ran)
        print(f"acknowledged {len(kept)}, lost {len(lost)}, duplicates {twice}")
        assert not lost
        return len(kept), len(lost), twice


@pytest.fixture
def load(place: Place, opened: Open) -> Iterator[Callable[[str], Load]]:
    """Yield a function that starts the load on a server."""
    loads: list[Load] = []

    def load(url: str) -> Load:
        loads.append(Load(place, url, opened))
        return loads[-1]

    yield load
    for one in loads:
        one.producer.kill()
        one.producer.wait(PATIENCE)


def test_killed_and_restarted(own_server: Server, load: Callable[[str], Load]) -> None:
    """A server is killed under load and restarted three times, and no acknowledged task is lost."""
    under = load(queue_on(own_server.url, "&lease=2"))
    for _ in range(3):
        under.goes_on()
        own_server.kill()
        own_server.start()
    under.goes_on()
    kept, _, twice = under.settle()
    assert kept > 100
    assert twice <= 3 * 4  # what the two workers had ended or begun when the server was killed


def test_cut_off(own_server: Server, load: Callable[[str], Load]) -> None:
    """A connection breaks for longer than a lease. The ends of the runs are settled afterwards."""
    proxy = Proxy(own_server.port)
    try:
        under = load(queue_on(f"nats://127.0.0.1:{proxy.port}", "&lease=2"))
        for _ in range(2):
            under.goes_on()
            proxy.cut()
            time.sleep(3)
            proxy.restore()
        under.goes_on()
        _, _, twice = under.settle()
        assert twice <= 2 * 4
    finally:
        proxy.close()


def test_silence(own_server: Server, load: Callable[[str], Load]) -> None:
    """A server does not answer for a while, and its connections stay open."""
    under = load(queue_on(own_server.url, "&lease=2"))
    under.goes_on()
    own_server.freeze()
    time.sleep(4)
    own_server.thaw()
    under.goes_on()
    _, _, twice = under.settle()
    assert twice <= 4


def test_nodes_of_a_cluster_are_killed(tmp_path: Path, load: Callable[[str], Load]) -> None:
    """One of three nodes is killed and restarted, then the leader of the tasks is killed. The load continues."""
    cluster = Cluster(tmp_path / "cluster").start()
    try:
        under = load(queue_on(f"nats://{cluster.hosts}", "&lease=2"))
        under.goes_on()
        info = under.backend.cluster.call(lambda stream: stream.info(under.backend.cluster.names.tasks))
        assert info is not None
        assert info["config"]["num_replicas"] == 3
        leader = cluster.named(info["cluster"]["leader"])
        follower = next(server for server in cluster.servers if server is not leader)
        follower.kill()
        under.goes_on()
        follower.start()
        under.goes_on()
        leader.kill()
        under.goes_on()
        leader.start()
        under.goes_on()
        _, _, twice = under.settle()
        assert twice <= 2 * 4
    finally:
        cluster.remove()
