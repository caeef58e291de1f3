"""A connection to NATS, its event loop, and the thread that runs the loop.

The core of unspool is synchronous and its processes fork. The thread is therefore stopped before each fork of this
process and restarted afterwards, so a fork never copies a half-done state or a held lock. A child does not use the
parent's connection: its inherited sockets are closed, and it opens a connection of its own when it needs one.
"""

import asyncio
import atexit
import contextlib
import logging
import os
import selectors
import threading
import weakref
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import CancelledError, Future
from typing import Any, TypeVar

from ... import forks
from ...errors import ConfigurationError, SpoolerUnreachable

__all__ = ["AsyncConnection", "Unreachable"]

T = TypeVar("T")

_log = logging.getLogger("unspool")
_CONNECT = 2.0  # seconds for one server to answer
_PING = 5  # seconds between pings; two missed pings end the connection
_AGAIN = 0.25  # seconds between two rounds over the servers
_CLOSE = 5.0

_links: "weakref.WeakSet[AsyncConnection]" = weakref.WeakSet()
_abandoned: list[object] = []


class Unreachable(SpoolerUnreachable):
    """No server answers, or none accepts the connection."""


class AsyncConnection:
    """The connection of one process, opened on first use.

    :param servers: URLs, without credentials.
    :param shown: the servers, for messages.
    :param login: the client's options, such as ``user`` and ``password``.
    :param patience: seconds for which the servers are tried.
    :raises Unreachable: if no server accepts the connection.
    """

    def __init__(self, servers: Sequence[str], shown: str, login: Mapping[str, str], patience: float) -> None:
        try:
            from nats.aio.client import Client
        except ImportError as error:
            raise ConfigurationError(
                "spoolers on NATS need the NATS client, which is not installed: pip install 'nats-py'"
            ) from error
        self._is_inherited = False
        self._shown = shown
        self._error: Exception | None = None
        self._listeners: list[Callable[[], None]] = []
        self._selector = selectors.DefaultSelector()
        self._loop = asyncio.SelectorEventLoop(self._selector)
        self._thread: threading.Thread | None = None
        self.client = Client()
        self._unpark()
        _links.add(self)
        forks.register(before=self._park, after_in_parent=self._unpark, after_in_child=self._abandon)
        try:
            self.call(self._connect(list(servers), patience, dict(login)), patience + _CLOSE)
        except BaseException:
            self._end()
            raise

    # --- called from other threads

    @property
    def connected(self) -> bool:
        """Return whether the connection is believed to be up."""
        return self.client.is_connected

    @property
    def closed(self) -> bool:
        """Return whether the connection has ended permanently."""
        return self._is_inherited or self._loop.is_closed()

    def call(self, work: Coroutine[Any, Any, T], timeout: float | None = None) -> T:
        """Run a coroutine in the loop, wait for its result, and return it.

        :param timeout: seconds after which the coroutine is cancelled and Unreachable raised; None for no limit.
        """
        future = self.start(work)
        try:
            return future.result(timeout)
        except TimeoutError:
            future.cancel()
            raise Unreachable(f"{self._shown} does not answer") from None

    def start(self, work: Coroutine[Any, Any, T]) -> "Future[T]":
        """Run a coroutine in the loop, and return its future."""
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def soon(self, call: Callable[..., object], *args: object) -> None:
        """Call a function in the loop's thread, without waiting."""
        self._loop.call_soon_threadsafe(call, *args)

    def on_change(self, listener: Callable[[], None]) -> None:
        """Call ``listener`` in the loop's thread whenever the connection breaks or is restored."""
        self._listeners.append(listener)

    def forget(self, listener: Callable[[], None]) -> None:
        """Stop calling ``listener``."""
        self._listeners.remove(listener)

    def close(self) -> None:
        """Close the connection. In a forked child of the process that opened it, do nothing."""
        if self._thread is not None and not self._is_inherited:
            # The connection is broken or being renewed. Stopping the loop ends it.
            with contextlib.suppress(OSError, CancelledError):
                self.call(self.client.close(), _CLOSE)
            self._end()

    # --- called in the loop's thread

    async def _connect(self, servers: list[str], patience: float, options: dict[str, Any]) -> None:
        work = self.client.connect(
            servers,
            name="unspool",
            error_cb=self._on_error,
            disconnected_cb=self._on_disconnect,
            reconnected_cb=self._on_reconnect,
            connect_timeout=_CONNECT,  # type: ignore[arg-type]  # seconds, handed on to asyncio
            reconnect_time_wait=_AGAIN,  # type: ignore[arg-type]
            max_reconnect_attempts=-1,
            ping_interval=_PING,
            **options,
        )
        try:
            await asyncio.wait_for(work, patience)
        except TimeoutError:
            why = f": {self._error}" if self._error and str(self._error) else ""
            raise Unreachable(f"{self._shown} cannot be reached{why}") from None
        except Exception as error:
            raise Unreachable(f"{self._shown} cannot be used: {error}") from error

    async def _on_error(self, error: Exception) -> None:
        if self._error is None or not isinstance(error, OSError):  # a server's error says more than a closed socket
            self._error = error
        _log.debug("%s: %s", self._shown, error)

    async def _on_disconnect(self) -> None:
        self._tell()

    async def _on_reconnect(self) -> None:
        self._tell()

    def _tell(self) -> None:
        for listener in list(self._listeners):
            listener()

    # --- the thread, and forks

    def _park(self) -> None:
        """Stop the loop between two callbacks, and end its thread."""
        thread, self._thread = self._thread, None
        if thread is not None:
            self._loop.call_soon_threadsafe(self._loop.stop)
            thread.join()

    def _unpark(self) -> None:
        if self._thread is None and not self._loop.is_closed():
            self._thread = threading.Thread(target=self._loop.run_forever, name="unspool-nats", daemon=True)
            self._thread.start()

    def _abandon(self) -> None:
        """In a forked child: release the parent's sockets without a message to the server, and keep their numbers in
        use.

        Python's objects for them still exist. They must neither speak to the server nor close a number that belongs to
        another file by then. So each number becomes /dev/null, and the objects are kept forever.
        """
        self._is_inherited = True
        _links.discard(self)
        if self._loop.is_closed():
            return
        _abandoned.append((self._loop, self._selector, self.client))
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        poller = getattr(self._selector, "fileno", None)
        for fd in [key.fd for key in self._selector.get_map().values()] + ([poller()] if poller else []):
            os.dup2(null, fd, inheritable=False)
        os.close(null)

    def _end(self) -> None:
        _links.discard(self)
        self._park()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._loop.run_until_complete(asyncio.sleep(0))
        self._loop.close()


def _at_exit() -> None:
    for link in list(_links):
        link.close()


atexit.register(_at_exit)
