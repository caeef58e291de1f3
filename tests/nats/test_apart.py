"""Several hosts: networks that drop all packets, transfers whose host dies, and clocks that differ."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.nats.conftest import KEY, Open, at, queue_on, until
from tests.nats.proxy import Proxy
from tests.nats.server import Server
from tests.nats.test_faults import Load, load
from tests.runtime.conftest import PATIENCE, Place
from unspool import address, codec, inspection
from unspool.errors import SpoolerUnusable
from unspool.message import Ack, Claim, Message, State
from unspool.seal import Seal
from unspool.signing import Signer
from unspool.testing.exchange import claim_one, sealed, settle_one

__all__ = ["load"]

CARRIER = """
import os, sys, time
from pathlib import Path
from unspool import address
from unspool.backends.nats import NatsBackend
from unspool.settings import Settings
where = address.parse(os.environ["UNSPOOL_SPOOLERS"])
backend = NatsBackend(where, Settings())
parcels = backend.depot.leave(sys.argv[1:])
print(len(parcels), flush=True)
sys.stdin.readline()
print(len(backend.depot.left(parcels, "nowhere")), flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def proxy(own_server: Server) -> Iterator[Proxy]:
    """Yield a proxy for a server of the test."""
    made = Proxy(own_server.port)
    yield made
    made.close()


def test_a_producer_hears_of_silence(proxy: Proxy, opened: Open) -> None:
    """While packets are dropped, each send fails within seven seconds. A later send is stored once."""
    backend = opened(queue_on(f"nats://127.0.0.1:{proxy.port}"))
    backend.send([sealed(codec.encode(Message("task")))])
    proxy.silence()
    for _ in range(2):
        began = time.monotonic()
        with pytest.raises(SpoolerUnusable, match=r"does not answer|cannot be reached"):
            backend.send([sealed(codec.encode(Message("task")))])
        assert time.monotonic() - began < 7 + 2  # two for the machine
    proxy.restore()
    backend.send([sealed(codec.encode(Message("task")))])
    assert 2 <= backend.counts().tasks[State.READY] <= 4  # what failed may have been kept, as the network held it


def test_a_worker_recovers_from_silence(proxy: Proxy, load: Callable[[str], Load]) -> None:
    """A worker and a producer whose connections are silently lost notice this, open others and continue."""
    under = load(queue_on(f"nats://127.0.0.1:{proxy.port}", "&lease=2"))
    under.goes_on()
    proxy.lose()
    time.sleep(3)
    proxy.restore()
    began = time.monotonic()
    under.goes_on()
    print(f"went on after {time.monotonic() - began:.1f} s")
    _, _, twice = under.settle()
    assert twice <= 4


class Elsewhere:
    """A process on another host that transfers tasks: in a pid namespace of its own, like a container."""

    def __init__(self, place: Place, ids: list[str]) -> None:
        command = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child", sys.executable, "-c", CARRIER, *ids]
        self._log = open(place.root / "carrier.log", "wb")  # noqa: SIM115  closed by ``end``
        self.process = subprocess.Popen(
            command, cwd=place.root, env=place.env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log
        )
        self._log_path = Path(place.root / "carrier.log")

    def says(self) -> int:
        """Return the number of tasks that have taken the next step."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self._log_path.read_text()
        return int(line)

    def go_on(self) -> None:
        """Make the process take the next step."""
        assert self.process.stdin is not None
        self.process.stdin.write(b"\n")
        self.process.stdin.flush()

    def end(self) -> None:
        """Kill the process."""
        self.process.kill()
        self.process.communicate(timeout=PATIENCE)
        self._log.close()


@pytest.fixture
def carry(place: Place) -> Iterator[Callable[[str, list[str]], Elsewhere]]:
    """Yield a function that starts the transfer of tasks on another host."""
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("a namespace of its own needs root and unshare")
    made: list[Elsewhere] = []

    def carry(url: str, ids: list[str]) -> Elsewhere:
        made.append(Elsewhere(at(place, url), ids))
        return made[-1]

    yield carry
    for one in made:
        one.end()


def test_a_carrier_of_another_host_dies(
    url: str, opened: Open, carry: Callable[[str, list[str]], Elsewhere], place: Place
) -> None:
    """No other process takes over tasks while a live host transfers them.

    Within two leases of its death, another process continues, and each task is at its destination once.
    """
    here = opened(url)
    seal = Seal(here.name, Signer([KEY], address.parse(url).spooler))
    ids = here.send([sealed(codec.encode(Message("task", number)), seal) for number in range(20)])
    far = carry(url, ids)
    assert far.says() == 20
    assert here.depot.departures() == []
    assert here.counts().tasks[State.READY] == 20  # they are shown, as being moved
    far.process.kill()
    began = time.monotonic()
    parcels = []
    until(lambda: bool(parcels.extend(here.depot.departures()) or len(parcels) == 20))
    assert time.monotonic() - began < 2 * here.cluster.lease + 2
    here.depot.stay(parcels)  # as if its own mover came back to them later
    target = place.root / "target"
    command = [sys.executable, "-m", "unspool", "move", url, str(target)]
    moved = subprocess.run(command, cwd=place.root, env=place.env, capture_output=True, timeout=PATIENCE, check=False)
    assert moved.returncode == 0, moved.stderr
    assert sum(here.counts().tasks.values()) == 0
    assert len([path for path in target.iterdir() if path.name.startswith("uwsgi_spoolfile")]) == 20


def test_a_carrier_of_another_host_is_cut_off(
    own_server: Server, proxy: Proxy, opened: Open, carry: Callable[[str, list[str]], Elsewhere]
) -> None:
    """A process without network loses its tasks after a lease. When it is connected again, it cannot change them."""
    url = queue_on(own_server.url, "&lease=2")
    here = opened(url)
    ids = here.send([sealed(codec.encode(Message("task", number))) for number in range(5)])
    far = carry(url.replace(str(own_server.port), str(proxy.port)), [id.rpartition("/")[2] for id in ids])
    assert far.says() == 5
    proxy.cut()
    parcels = []
    until(lambda: bool(parcels.extend(here.depot.departures()) or len(parcels) == 5))
    proxy.restore()
    far.go_on()
    assert far.says() == 0
    here.depot.stay(parcels)
    assert here.counts().tasks[State.READY] == 5
    assert not any("moved" in entry.reason for entry in inspection.tasks(here))


@pytest.mark.parametrize("ahead", [3600.0, -3600.0])
def test_clocks_that_differ(url: str, opened: Open, ahead: float) -> None:
    """A task is due at once even if the clock of its sender is an hour off.

    A worker whose clock is an hour off takes no task from a live one, because ages are measured by the clock of the
    servers.
    """
    sender = opened(url, clock=lambda: time.time() + ahead)
    here = opened(url)
    (id,) = sender.send([sealed(codec.encode(Message("task")))])
    assert here.counts().tasks[State.READY] == 1
    feed = here.feed()
    tickets = feed.take(1)
    while not tickets:
        feed.refresh()
        tickets = feed.take(1)
    claim = claim_one(here, tickets[0].ref)
    assert isinstance(claim, Claim)
    assert sender.live() == here.live()
    assert sender.counts().tasks[State.RUNNING] == 1
    assert sender.depot.leave([id]) == []
    settle_one(here, claim, Ack())
    assert sum(sender.counts().tasks.values()) == 0
    feed.close()
