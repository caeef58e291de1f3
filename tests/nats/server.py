"""Real nats-servers with JetStream, started on loopback from the wheel, alone or as a cluster."""

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
    """One server.

    :param place: a directory for its configuration, store and log.
    :param more: further lines of its configuration.
    :param storage: the most that it stores.
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
        """What clients connect to."""
        return f"nats://127.0.0.1:{self.port}"

    def limit(self, payload: int) -> None:
        """Has it take messages of so many bytes at most, from its next start on."""
        config = self._config.read_text()
        self._config.write_text(re.sub(r"max_payload: \d+", f"max_payload: {payload}", config))

    def start(self) -> "Server":
        """Starts it, and waits until it takes connections."""
        with open(self._log, "ab") as log:
            self._process = subprocess.Popen([PROGRAM, "-c", self._config], stdout=log, stderr=log)
        self.wait()
        return self

    def wait(self) -> None:
        """Waits until it takes connections."""
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
        """The process that runs it."""
        assert self._process is not None
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether it was started, and has not ended."""
        return self._process is not None and self._process.poll() is None

    def kill(self) -> None:
        """Ends it at once, as a power cut would but for the kernel's buffers."""
        self._signal(signal.SIGKILL)

    def stop(self) -> None:
        """Ends it in order."""
        self._signal(signal.SIGTERM)

    def freeze(self) -> None:
        """Stops it without ending it: its connections stay, and nothing answers."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Lets it go on."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def _signal(self, number: int) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)
            self._process.send_signal(number)
            self._process.wait(20)
            self._process = None

    def remove(self) -> None:
        """Ends it, and takes away what it stored."""
        self.kill()
        shutil.rmtree(self._place, ignore_errors=True)


class Cluster:
    """Three servers that replicate among themselves."""

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
        """All of them, as a URL has them."""
        return ",".join(f"127.0.0.1:{server.port}" for server in self.servers)

    def start(self) -> "Cluster":
        """Starts all."""
        for server in self.servers:
            server.start()
        return self

    def named(self, name: str) -> Server:
        """The server of this name."""
        return self.servers[int(name[1:])]

    def remove(self) -> None:
        """Ends all, and takes away what they stored."""
        for server in self.servers:
            server.remove()


def available() -> bool:
    """Whether there is a server to start."""
    return os.access(PROGRAM, os.X_OK)


def version() -> str:
    """The server's."""
    said = subprocess.run([PROGRAM, "--version"], capture_output=True, text=True, check=True).stdout
    return said.rpartition(":")[2].strip()
