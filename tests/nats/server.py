"""Real nats-servers with JetStream on loopback, single or as a cluster, from the programs of a wheel."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from tests.ports import free_port

__all__ = ["Cluster", "Server", "available", "version"]

PROGRAM = Path(sys.executable).with_name("nats-server")
PAYLOAD = 8 << 20


class Server:
    """A nats-server.

    :param place: a directory for its configuration, store and log.
    :param more: further lines of its configuration.
    :param storage: the limit of its storage.
    """

    def __init__(
        self,
        place: Path,
        *,
        name: str = "one",
        more: str = "",
        jetstream: bool = True,
        payload: int = PAYLOAD,
        storage: str = "100GB",
    ) -> None:
        place.mkdir(parents=True, exist_ok=True)
        self.port = free_port()
        self._place = place
        self._log = place / f"{name}.log"
        self._config = place / f"{name}.conf"
        store = f'jetstream {{ store_dir: "{place / name}", max_file_store: {storage} }}' if jetstream else ""
        self._config.write_text(
            f"server_name: {name}\nlisten: 127.0.0.1:{self.port}\nmax_payload: {payload}\n{store}\n{more}\n"
        )
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Return the URL for clients."""
        return f"nats://127.0.0.1:{self.port}"

    def limit(self, payload: int) -> None:
        """Set the largest message that the server accepts after its next start."""
        config = self._config.read_text()
        self._config.write_text(re.sub(r"max_payload: \d+", f"max_payload: {payload}", config))

    def start(self) -> "Server":
        """Start the server, and wait until it accepts connections."""
        with open(self._log, "ab") as log:
            self._process = subprocess.Popen([PROGRAM, "-c", self._config], stdout=log, stderr=log)
        self.wait()
        return self

    def wait(self) -> None:
        """Wait until the server accepts connections."""
        end = time.monotonic() + 20
        while True:
            try:
                with socket.create_connection(("127.0.0.1", self.port), 1) as probe:
                    if probe.recv(4) == b"INFO":
                        return
            except OSError:
                pass
            assert self._process is not None
            assert self._process.poll() is None, self._log.read_text()
            assert time.monotonic() < end, self._log.read_text()
            time.sleep(0.01)

    @property
    def pid(self) -> int:
        """Return the pid of the server."""
        assert self._process is not None
        return self._process.pid

    @property
    def running(self) -> bool:
        """Return whether the server was started and has not ended."""
        return self._process is not None and self._process.poll() is None

    def kill(self) -> None:
        """Kill the server. Unlike a power cut, this keeps the kernel's buffers."""
        self._signal(signal.SIGKILL)

    def stop(self) -> None:
        """Stop the server gracefully."""
        self._signal(signal.SIGTERM)

    def freeze(self) -> None:
        """Suspend the process. Its connections stay open, and it does not answer."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Continue the suspended process."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def _signal(self, number: int) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)
            self._process.send_signal(number)
            self._process.wait(20)
            self._process = None

    def remove(self) -> None:
        """Kill the server, and remove its files."""
        self.kill()
        shutil.rmtree(self._place, ignore_errors=True)


class Cluster:
    """Three servers that replicate their data."""

    def __init__(self, place: Path) -> None:
        ports = [free_port() for _ in range(3)]
        routes = ", ".join(f"nats-route://127.0.0.1:{port}" for port in ports)
        self.servers = [
            Server(
                place,
                name=f"n{number}",
                more=f"cluster {{ name: c, listen: 127.0.0.1:{port}, routes: [{routes}] }}",
            )
            for number, port in enumerate(ports)
        ]

    @property
    def hosts(self) -> str:
        """Return the hosts and ports of all servers, as in a URL."""
        return ",".join(f"127.0.0.1:{server.port}" for server in self.servers)

    def start(self) -> "Cluster":
        """Start all servers."""
        for server in self.servers:
            server.start()
        return self

    def named(self, name: str) -> Server:
        """Return the server with this name."""
        return self.servers[int(name[1:])]

    def remove(self) -> None:
        """Kill all servers, and remove their files."""
        for server in self.servers:
            server.remove()


def available() -> bool:
    """Return whether nats-server is installed."""
    return os.access(PROGRAM, os.X_OK)


def version() -> str:
    """Return the version of nats-server."""
    said = subprocess.run([PROGRAM, "--version"], capture_output=True, text=True, check=True).stdout
    return said.rpartition(":")[2].strip()
