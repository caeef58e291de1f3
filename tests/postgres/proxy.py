"""A TCP proxy between clients and a server that a test can interrupt."""

import contextlib
import selectors
import socket
import struct
import threading

_RESET = struct.pack("ii", 1, 0)  # close() then answers with RST, as a firewall that has lost its state does


class Proxy:
    """Forwards connections on ``port`` to another port on loopback, until it is interrupted."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._pairs: dict[socket.socket, socket.socket] = {}
        self._open = True
        self._lock = threading.Lock()
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._wake_up, self._waker = socket.socketpair()
        self._selector.register(self._wake_up, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def cut(self) -> None:
        """Reset all connections on both sides, and refuse new ones."""
        with self._lock:
            self._open = False
            self._end_all()

    def restore(self) -> None:
        """Accept connections again."""
        with self._lock:
            self._open = True

    def close(self) -> None:
        """Stop the proxy."""
        self._waker.close()
        self._thread.join(10)
        with self._lock:
            self._end_all()
        self._listener.close()
        self._wake_up.close()
        self._selector.close()

    def _run(self) -> None:
        while True:
            for key, _ in self._selector.select():
                if key.fileobj is self._wake_up:
                    return
                with self._lock:
                    if key.fileobj is self._listener:
                        self._accept()
                    elif isinstance(key.fileobj, socket.socket) and key.fileobj in self._pairs:
                        self._forward(key.fileobj)

    def _accept(self) -> None:
        client, _ = self._listener.accept()
        if not self._open:
            _reset(client)
            return
        try:
            server = socket.create_connection(("127.0.0.1", self._target), 5)
        except OSError:
            _reset(client)
            return
        self._pairs |= {client: server, server: client}
        for one in (client, server):
            self._selector.register(one, selectors.EVENT_READ)

    def _forward(self, source: socket.socket) -> None:
        try:
            data = source.recv(1 << 16)
            if data:
                self._pairs[source].sendall(data)
                return
        except OSError:
            pass
        self._end(source)

    def _end_all(self) -> None:
        for one in list(self._pairs):
            if one in self._pairs:
                self._end(one)

    def _end(self, one: socket.socket) -> None:
        for side in (one, self._pairs.pop(one)):
            self._pairs.pop(side, None)
            with contextlib.suppress(KeyError, ValueError):
                self._selector.unregister(side)
            _reset(side)


def _reset(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    connection.close()
