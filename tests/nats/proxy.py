"""A TCP proxy on loopback that can refuse and break connections, or pass nothing on."""

import contextlib
import selectors
import socket
import threading

__all__ = ["Proxy"]


class Proxy:
    """A proxy for one port.

    :param target: the port to which connections are forwarded.
    """

    def __init__(self, target: int) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port = int(self._listener.getsockname()[1])
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._wake_up, self._waker = socket.socketpair()
        self._selector.register(self._wake_up, selectors.EVENT_READ)
        self._doors = selectors.DefaultSelector()  # the only sockets that are read while it is silent
        for door in (self._listener, self._wake_up):
            self._doors.register(door, selectors.EVENT_READ)
        self._others: dict[socket.socket, socket.socket] = {}
        self._open = threading.Event()
        self._open.set()
        self._silent = False
        self._losing = threading.Event()
        self._lost: list[socket.socket] = []
        self._ended = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def cut(self) -> None:
        """Break all connections, and refuse new ones."""
        self._open.clear()
        self._waker.send(b".")

    def silence(self) -> None:
        """Pass nothing on, like a cable that is unplugged. No connection is closed."""
        self._silent = True
        self._waker.send(b".")

    def lose(self) -> None:
        """Pass nothing on.

        Connections that are open now stay silent after ``restore``, as if a firewall had lost their state.
        """
        self._losing.set()
        self.silence()

    def restore(self) -> None:
        """Pass data on again, and accept connections. Connections that were broken stay closed."""
        self._silent = False
        self._open.set()
        self._waker.send(b".")

    def close(self) -> None:
        """Stop the proxy."""
        self._ended = True
        self._waker.send(b".")
        self._thread.join(10)

    def _run(self) -> None:
        while not self._ended:
            for key, _ in (self._doors if self._silent else self._selector).select():
                end = key.fileobj
                assert isinstance(end, socket.socket)
                if end is self._wake_up:
                    self._wake_up.recv(64)
                elif end is self._listener:
                    self._accept()
                elif not self._silent:
                    self._pass_on(end)
            if self._losing.is_set():
                self._losing.clear()
                for end in list(self._others):
                    self._selector.unregister(end)
                    self._lost.append(end)
                self._others.clear()
            if not self._open.is_set():
                for end in list(self._others):
                    self._break(end)
        for end in [*self._others, *self._lost, self._listener, self._wake_up, self._waker]:
            end.close()
        self._selector.close()
        self._doors.close()

    def _accept(self) -> None:
        client, _ = self._listener.accept()
        if not self._open.is_set():
            client.close()
            return
        try:
            server = socket.create_connection(("127.0.0.1", self._target), 2)
        except OSError:
            client.close()
            return
        for end, other in ((client, server), (server, client)):
            self._others[end] = other
            self._selector.register(end, selectors.EVENT_READ)

    def _pass_on(self, end: socket.socket) -> None:
        other = self._others.get(end)
        if other is None:
            return
        try:
            data = end.recv(1 << 16)
            if data:
                other.sendall(data)
                return
        except OSError:
            pass
        self._break(end)

    def _break(self, end: socket.socket) -> None:
        other = self._others.pop(end, None)
        for one in (end, other):
            if one is not None:
                self._others.pop(one, None)
                with contextlib.suppress(KeyError, ValueError):
                    self._selector.unregister(one)
                one.close()
