"""A TCP proxy on loopback that delays data, drops it silently, and cuts connections."""

import contextlib
import socket
import struct
import threading
import time

__all__ = ["Proxy"]

_RESET = struct.pack("ii", 1, 0)  # close() then sends RST, as a firewall that has lost its state does


class Proxy:
    """Forwards connections on ``port`` to another port on loopback.

    :param target: the other port.
    """

    def __init__(self, target: int) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port = int(self._listener.getsockname()[1])
        self.lag = 0.0
        """Seconds by which each piece of data is delayed."""
        self._speaking = threading.Event()
        self._speaking.set()
        self._open = True
        self._lock = threading.Lock()
        self._sides: set[socket.socket] = set()
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self, *, seconds: float) -> None:
        """Break all connections, and refuse new ones for these seconds."""
        self._open = False
        self._break(self._taken())
        time.sleep(seconds)
        self._open = True

    def silence(self, seconds: float) -> None:
        """Forward nothing for these seconds, without an error to either side."""
        self._speaking.clear()
        time.sleep(seconds)
        self._speaking.set()

    def close(self) -> None:
        """Stop the proxy."""
        self._open = False
        self._speaking.set()
        self._listener.close()
        self._break(self._taken())

    def _taken(self) -> set[socket.socket]:
        with self._lock:
            taken, self._sides = self._sides, set()
        return taken

    @staticmethod
    def _break(sides: set[socket.socket]) -> None:
        for side in sides:
            with contextlib.suppress(OSError):
                side.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                side.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                if not self._open:
                    raise ConnectionRefusedError
                server = socket.create_connection(("127.0.0.1", self._target), 5)
            except OSError:
                self._break({client})
                client.close()
                continue
            server.settimeout(None)
            with self._lock:
                self._sides |= {client, server}
            for here, there in ((client, server), (server, client)):
                threading.Thread(target=self._forward, args=(here, there), daemon=True).start()

    def _forward(self, here: socket.socket, there: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := here.recv(1 << 16):
                if self.lag:
                    time.sleep(self.lag)
                self._speaking.wait()
                there.sendall(data)
        with self._lock:
            self._sides -= {here, there}
        self._break({here, there})
        here.close()
