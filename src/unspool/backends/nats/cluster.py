"""A spooler's NATS cluster: the servers, the names of the streams, and the connections of this process.

Each call uses a connection that no other thread uses meanwhile. It is opened when it is needed and kept for later
calls, so a process has as many as it makes calls at once. A forked child opens its own; see ``connection``.
"""

import contextlib
import os
import random
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import NamedTuple, TypeVar
from urllib.parse import unquote, urlsplit

from ... import forks
from ...address import Address
from ...errors import OptionRefused
from . import streams
from .connection import Server
from .jetstream import JetStream
from .names import Names, is_token
from .requests import NO_STREAM, ApiError, Request
from .reserve import Reserve

__all__ = ["Cluster", "Work"]

T = TypeVar("T")
Work = Callable[[JetStream], T]

_LEASE = 30.0
_UNUSED = 1.0  # seconds after which a connection may have been closed by the server
_KEPT = 8  # the most connections that are kept for later calls
_YES = ("1", "true", "yes", "on")


class Way(NamedTuple):
    """The connection parameters in a spooler's URL.

    :param login: ``user`` and ``password``, ``token``, or ``credentials``.
    :param replicas: copies of each message; None for 3 in a cluster and 1 otherwise.
    :param lease: seconds of silence after which a process on another host counts as dead.
    """

    servers: tuple[Server, ...]
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
            hosts.append(_server(address, host, tls=given["tls"] in _YES))
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
        self._servers = random.sample(self._way.servers, len(self._way.servers))  # clients spread over them
        self.lease = self._way.lease
        self.patience = patience
        self.reserve = Reserve(self.names)
        self.schedules = False
        """Whether the server holds deferred tasks back. Known after the first connection."""
        self.keeps_history = history_limit > 0
        self._shown = f"NATS at {address.name.partition('://')[2].rpartition('/')[0]}"
        self._settings = streams.Settings(self._way.replicas, self.lease, history_limit, history_age)
        self._idle: list[JetStream] = []
        self._lock = threading.Lock()
        self._ready = False
        self.ranks: set[str] = set()
        """The priorities whose consumers are known to exist."""
        forks.register(after_in_child=self._begin_in_child)

    def token(self, id: str) -> str | None:
        """Return the token in an id or in a part of an id. Return None if the id belongs to another spooler."""
        place, slash, token = id.rpartition("/")
        return None if (slash and place != self.name) or not is_token(token) else token

    def connect(self, patience: float | None = None) -> JetStream:
        """Return a connection for the caller alone, which is opened by its first request.

        :param patience: seconds for which a request is repeated; None for the default.
        """
        return JetStream(self._servers, self._way.login, self._shown, self.patience if patience is None else patience)

    @contextlib.contextmanager
    def stream(self) -> Iterator[JetStream]:
        """Yield a connection that no other thread uses meanwhile. The streams exist.

        :raises SpoolerUnusable: if no server can be used.
        """
        try:
            stream = self._idle.pop()
        except IndexError:
            stream = self.connect()
        else:
            stream.poll(_UNUSED)
        try:
            if not self._ready:
                self.prepare(stream)
            yield stream
        except ApiError as error:
            self._ready = self._ready and error.code != NO_STREAM  # a deleted stream is created again on the next use
            raise
        finally:
            if len(self._idle) < _KEPT:
                self._idle.append(stream)
            else:
                stream.close()

    def prepare(self, stream: JetStream) -> None:
        """Create the streams if they are missing.

        :raises SpoolerUnusable: as ``stream``.
        """
        with self._lock:
            if not self._ready:
                self.ranks.clear()
                tasks, aside = streams.ensure(stream, self.names, self._settings)
                self.schedules = streams.has_schedules(tasks)
                if not aside["state"]["last_seq"]:
                    self.reserve.keep(stream)
                self._ready = True

    def call(self, work: Work[T]) -> T:
        """Call ``work`` with a connection, and return its result. Raises as ``stream``."""
        with self.stream() as stream:
            return work(stream)

    def tell(self, request: Request) -> None:
        """Send a request without waiting for an answer, if a connection is open. It may be lost."""
        with contextlib.suppress(IndexError):
            stream = self._idle.pop()
            stream.tell(request)
            self._idle.append(stream)

    def publish_all(self, messages: Sequence[Request]) -> None:
        """Store messages. They are stored by a quorum when this returns."""
        with self.stream() as stream:
            stream.publish_all(messages)

    def ensure_table(self, stream: JetStream) -> None:
        """Ensure that the stream of the key-value table exists. The other streams are created by ``prepare``."""
        streams.ensure_table(stream, self.names, self._settings)

    def ensure_rank(self, stream: JetStream, rank: str) -> None:
        """Ensure that a consumer delivers the tasks of this priority and that feeds know it."""
        if rank not in self.ranks:
            name = self.names.consumer(rank)
            request = {"stream_name": self.names.tasks, "config": streams.consumer(self.names, rank, self.lease)}
            stream.api(f"CONSUMER.CREATE.{self.names.tasks}.{name}", request)
            stream.tell(Request(self.names.notice, rank.encode()))
            self.ranks.add(rank)

    def ensure_ranks(self, ranks: Collection[str]) -> None:
        """Call ``ensure_rank`` for several priorities."""
        for rank in set(ranks) - self.ranks:
            self.call(lambda stream, rank=rank: self.ensure_rank(stream, rank))  # type: ignore[misc]

    def close(self) -> None:
        """Close the connections. The next use opens others."""
        while self._idle:
            self._idle.pop().close()

    def _begin_in_child(self) -> None:
        self._lock = threading.Lock()  # another thread of the parent may have held it


def _server(address: Address, host: str, *, tls: bool) -> Server:
    try:
        found = urlsplit(f"nats://{host or 'localhost'}")
        name = found.hostname or "localhost"
        return Server(name, found.port or 4222, tls, name)
    except ValueError:
        raise OptionRefused(f"{host!r} in {address.name} is not a server; give HOST or HOST:PORT") from None


def _login(logins: set[str], credentials: str) -> dict[str, str]:
    if credentials:
        return {"credentials": os.path.expanduser(credentials)}
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
