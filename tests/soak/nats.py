"""A soak of NATS JetStream: two supervisors, one behind a proxy, senders on both sides, and a forwarder."""

import asyncio
import contextlib
import random
import secrets
import time
from collections.abc import Mapping
from pathlib import Path

import nats.errors
import nats.js.errors
from nats.js.api import StreamConfig

import nats
from tests.nats.server import Server
from unspool import settings

from . import oracle
from .cast import Cast
from .operators import Operators, Route
from .proxy import Proxy
from .target import Fault, base_environment, server_parts

__all__ = ["LEASE", "NatsTarget"]

LEASE = 5
"""Seconds after which the server gives the tasks of a silent host to others."""
_STORE = 192  # megabytes of the server's storage
_LAG = 0.002  # seconds of delay for each piece of data through the proxy


class NatsTarget:
    """The spooler ``mail`` on a separate server, and a directory that is forwarded to it."""

    def __init__(self, scratch: Path, log: str, seed: str, pause: float) -> None:
        self._log = log
        store = f'jetstream {{ store_dir: "{scratch}/server/store", max_file_store: {_STORE}MB }}'
        self._server = Server(scratch / "server", jetstream=False, more=store).start()
        self._proxy = Proxy(self._server.port)
        self._proxy.lag = _LAG
        here = f"{self._server.url}?spooler=mail&lease={LEASE}"
        there = f"nats://127.0.0.1:{self._proxy.port}?spooler=mail&lease={LEASE}"
        self._inbox = str(scratch / "inbox" / "mail")
        key = secrets.token_urlsafe(32)
        base = base_environment(scratch, log) | {"UNSPOOL_SECRET_KEY": key}
        direct = base | {"UNSPOOL_SPOOLERS": here}
        proxied = base | {"UNSPOOL_SPOOLERS": there}
        forwarded = base | {"UNSPOOL_SPOOLERS": self._inbox, "UNSPOOL_FORWARD": here}
        self.environment = direct
        self.spoolers = [here]
        self.routes: list[Route] = []
        self.parts = server_parts(direct, proxied, forwarded, seed, pause)
        settings.configure(spoolers=[here], secret_key=key)

    def faults(self, cast: Cast) -> Mapping[Fault, float]:
        self._cast = cast
        return {
            self.killed: 3, self.stopped: 1.5, self.frozen_server: 2, self.storage_full: 1.5, self.proxy_cut: 4,
            self.proxy_silent: 2,
        }  # fmt: skip

    def killed(self, source: random.Random) -> None:
        oracle.append(self._log, "crash")
        self._server.kill()
        time.sleep(source.choice([0, 0, source.uniform(0, 3)]))
        self._server.start()
        oracle.append(self._log, "crash")

    def stopped(self, source: random.Random) -> None:
        self._server.stop()
        time.sleep(source.random())
        self._server.start()

    def frozen_server(self, source: random.Random) -> None:
        self._server.freeze()
        time.sleep(source.uniform(0.5, 2 * LEASE))
        self._server.thaw()

    def storage_full(self, source: random.Random) -> None:
        """Fill the server's storage with a stream of another program."""
        asyncio.run(_fill(self._server.url, source.uniform(1, 4)))

    def proxy_cut(self, source: random.Random) -> None:
        with self._cast.cut_off(self._behind()):
            self._proxy.cut(seconds=source.choice([0, 0, source.uniform(0, 3)]))

    def proxy_silent(self, source: random.Random) -> None:
        seconds = source.uniform(0.5, 2 * LEASE)
        lapses = seconds > LEASE * 2 / 3  # a lease is renewed every third of its time
        with self._cast.cut_off(self._behind() if lapses else []):
            self._proxy.silence(seconds)

    def _behind(self) -> list[int]:
        """Return the processes behind the proxy."""
        return self._cast.members("supervisor-2", "producer-2")

    def end_faults(self) -> None:
        if not self._server.running:
            self._server.start()

    def bring_back(self, operators: Operators) -> None:
        operators.run("move", self._inbox, self.spoolers[0])

    def taken(self) -> set[str]:
        return set()

    def close(self) -> None:
        self._proxy.close()
        self._server.kill()


async def _fill(url: str, seconds: float) -> None:
    client = await nats.connect(url)
    stream = client.jetstream()
    with contextlib.suppress(nats.errors.Error):
        await stream.add_stream(StreamConfig(name="filler", subjects=["filler"]))
        for size in (1 << 20, 1 << 16, 1 << 10):
            with contextlib.suppress(nats.js.errors.APIError):
                while True:
                    await stream.publish("filler", b"x" * size)
    await asyncio.sleep(seconds)
    with contextlib.suppress(nats.errors.Error):
        await stream.delete_stream("filler")
    await client.close()
