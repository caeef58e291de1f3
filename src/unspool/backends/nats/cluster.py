"""A spooler's NATS cluster: the servers, the names of the streams, and this process's connection.

Each process opens its connection on first use, because connections do not survive a fork; see ``async_connection``.
"""

import contextlib
import os
import threading
import time
from collections.abc import Callable, Collection, Coroutine, Iterator, Sequence
from concurrent.futures import Future
from typing import Any, NamedTuple, TypeVar
from urllib.parse import unquote

from ... import forks
from ...address import Address
from ...errors import OptionRefused
from . import streams
from .async_connection import AsyncConnection
from .jetstream import NO_STREAM, ApiError, JetStream, Publication
from .names import Names, is_token
from .reserve import Reserve
from .sync_connection import Broken, SyncConnection, at_once

__all__ = ["Cluster", "Work"]

T = TypeVar("T")
Work = Callable[[JetStream], Coroutine[Any, Any, T]]

_LEASE = 30.0
_LANE_AGAIN = 2.0  # seconds after a broken fast path before another is opened
_YES = ("1", "true", "yes", "on")


class Way(NamedTuple):
    """The connection parameters in a spooler's URL.

    :param servers: URLs of the servers, without credentials.
    :param login: the client's ``user`` and ``password``, ``token`` or ``user_credentials``.
    :param replicas: copies of each message; None for 3 in a cluster and 1 otherwise.
    :param lease: seconds of silence after which a process on another host counts as dead.
    """

    servers: tuple[str, ...]
    login: dict[str, str]
    replicas: int | None
    lease: float

    @classmethod
    def of(cls, address: Address) -> "Way":
        """Return the connection parameters in the URL of an address.

        :raises OptionRefused: for an invalid parameter. The message contains no password.
        """
        servers, _, query = address.url.partition("://")[2].partition("?")
        given = dict.fromkeys(("replicas", "lease", "credentials", "tls"), "")
        for part in filter(None, query.split("&")):
            name, _, value = part.partition("=")
            if name not in given:
                raise OptionRefused(
                    f"unknown parameter {name!r} in {address.name}; valid parameters: {', '.join(given)}, spooler"
                )
            given[name] = unquote(value)
        logins, hosts = set(), []
        for server in servers.split(","):
            login, _, host = server.rpartition("@")
            hosts.append(f"{'tls' if given['tls'] in _YES else 'nats'}://{host or 'localhost'}")
            logins.add(login)
        logins.discard("")
        if len(logins) > 1:
            raise OptionRefused(
                f"the servers of {address.name} have different users; give the same user for each server"
            )
        replicas = _number(address, "replicas", given["replicas"] or "0", 0, 5)
        lease = _number(address, "lease", given["lease"] or str(_LEASE), 1, 3600)
        return cls(tuple(hosts), _login(logins, given["credentials"]), int(replicas) or None, lease)


class Cluster:
    """The spooler of one address in a NATS cluster.

    :param address: the parts of its URL.
    :param patience: seconds for which an operation is tried before it fails.
    :param history_limit: the number of runs that the history keeps.
    :param history_age: seconds for which the history keeps a run.
    :raises OptionRefused: for an unknown parameter in the URL.
    """

    def __init__(
        self,
        address: Address,
        *,
        patience: float = 5.0,
        history_limit: int = 100_000,
        history_age: float = 7 * 86400.0,
    ) -> None:
        self.name = address.name
        self.names = Names(address.spooler)
        self._way = Way.of(address)
        self.lease = self._way.lease
        self.patience = patience
        self.reserve = Reserve(self.names, patience)
        self.schedules = False
        """Whether the server holds deferred tasks back. Known after the first connection."""
        self.keeps_history = history_limit > 0
        self._shown = f"NATS at {address.name.partition('://')[2].rpartition('/')[0]}"
        self._settings = streams.Settings(self._way.replicas, self.lease, history_limit, history_age)
        self._lock = threading.Lock()
        self._stream: JetStream | None = None
        self._ready = False
        self._sync: SyncConnection | None = None
        self._lane_taken = threading.Lock()
        self._next_lane = 0.0
        self.ranks: set[str] = set()
        """The priorities whose consumers are known to exist."""
        forks.register(after_in_child=self._begin_in_child)

    def token(self, id: str) -> str | None:
        """Return the token in an id or in a part of an id. Return None if the id belongs to another spooler."""
        place, slash, token = id.rpartition("/")
        return None if (slash and place != self.name) or not is_token(token) else token

    def stream(self, patience: float | None = None) -> JetStream:
        """Return the JetStream connection, opened if necessary.

        :param patience: seconds for which the servers are tried; None for the default.
        :raises SpoolerUnusable: if no server accepts the connection.
        """
        patience = self.patience if patience is None else patience
        with self._lock:
            if self._stream is None:
                link = AsyncConnection(self._way.servers, self._shown, self._way.login, patience)
                self._stream = JetStream(link, self._shown)
                link.call(self._stream.begin(), patience)
                self._ready = False
            if not self._ready:
                self.ranks.clear()
                link = self._stream.link
                tasks, aside = link.call(streams.ensure(self._stream, self.names, self._settings, patience))
                self.schedules = streams.has_schedules(tasks)
                if not aside["state"]["last_seq"]:
                    link.call(self.reserve.keep(self._stream))
                self._ready = True
            return self._stream

    @property
    def is_open(self) -> bool:
        """Return whether this process has a connection."""
        return self._ready and self._stream is not None

    def call(self, work: Work[T]) -> T:
        """Run ``work`` in the event loop, wait for its result, and return it.

        :raises SpoolerUnusable: if no server can be used.
        """
        stream = self.stream()
        try:
            return stream.link.call(work(stream))
        except ApiError as error:
            self._ready = self._ready and error.code != NO_STREAM  # a deleted stream is created again on the next use
            raise

    def start(self, work: Work[T]) -> "Future[T]":
        """Start ``work`` in the event loop and return its future."""
        stream = self.stream()
        return stream.link.start(work(stream))

    @contextlib.contextmanager
    def lane(self) -> Iterator[SyncConnection]:
        """Yield the fast path to the streams for exclusive use.

        :raises Broken: if it is unavailable. The caller then uses the asyncio connection.
        """
        stream = self.stream()
        # Held by another thread, or by this one below a signal handler.
        if not self._lane_taken.acquire(blocking=False):
            raise Broken("it is in use")
        try:
            yield self._opened_lane(stream)
        finally:
            self._lane_taken.release()

    def _opened_lane(self, stream: JetStream) -> SyncConnection:
        server, lane = stream.link.client.connected_url, self._sync
        if server is None or "user_credentials" in self._way.login:
            raise Broken("the link is broken, or signs what the server sends")
        if lane is None or lane.closed or lane.server is not server:
            if lane is not None and not lane.closed:
                lane.close()
            if time.monotonic() < self._next_lane:
                raise Broken("it was tried a moment ago")
            self._next_lane = time.monotonic() + _LANE_AGAIN
            self._sync = lane = SyncConnection(stream, server, self._way.login)
        return lane

    def quickly(self, work: Work[T]) -> T:
        """Call ``work`` on the fast path if it is free, and otherwise on the asyncio connection.

        Use it only for requests that wait for answers. A request without an answer on the fast path is repeated, so
        repetition must be harmless.
        """
        try:
            with self.lane() as lane:
                return at_once(work(lane))
        except (Broken, ApiError):
            return self.call(work)

    def publish_all(self, messages: Sequence[Publication]) -> None:
        """Store messages. They are stored by a quorum when this returns."""
        self.quickly(lambda stream: stream.publish_all(messages, patience=self.patience))

    def ensure_ranks(self, ranks: Collection[str]) -> None:
        """Call ``ensure_rank`` for several priorities from another thread."""
        for rank in set(ranks) - self.ranks:
            self.call(lambda stream, rank=rank: self.ensure_rank(stream, rank))  # type: ignore[misc]

    async def ensure_table(self, stream: JetStream) -> None:
        """Ensure that the stream of the key-value table exists. The other streams are created by each connection."""
        await streams.ensure_table(stream, self.names, self._settings, self.patience)

    async def ensure_rank(self, stream: JetStream, rank: str) -> None:
        """Ensure that a consumer delivers the tasks of this priority and that feeds know it."""
        if rank in self.ranks:
            return
        name = self.names.consumer(rank)
        request = {"stream_name": self.names.tasks, "config": streams.consumer(self.names, rank, self.lease)}
        await stream.api(f"CONSUMER.CREATE.{self.names.tasks}.{name}", request, patience=self.patience)
        await stream.link.client.publish(self.names.notice, rank.encode())
        self.ranks.add(rank)

    def close(self) -> None:
        """Close the connection. The next use opens another."""
        with self._lock:
            stream, self._stream = self._stream, None
            lane, self._sync = self._sync, None
        if lane is not None:
            lane.close()
        if stream is not None:
            stream.link.close()

    def _begin_in_child(self) -> None:
        self._lock = threading.Lock()  # another thread of the parent may have held it
        self._stream = self._sync = None  # closing the child's copy of the socket sends nothing to the server
        self._lane_taken = threading.Lock()
        self._next_lane = 0.0


def _login(logins: set[str], credentials: str) -> dict[str, str]:
    if credentials:
        return {"user_credentials": os.path.expanduser(credentials)}
    if not logins:
        return {}
    user, colon, password = logins.pop().partition(":")
    return {"user": unquote(user), "password": unquote(password)} if colon else {"token": unquote(user)}


def _number(address: Address, name: str, text: str, least: float, most: float) -> float:
    try:
        number = float(text)
    except ValueError:
        number = float("nan")
    if not least <= number <= most:
        raise OptionRefused(f"{name} of {address.name} is {text!r}; it must be a number from {least} to {most}")
    return number
