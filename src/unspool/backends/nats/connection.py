"""A connection to a NATS server: a plain socket that one thread at a time writes and reads.

A connection repeats nothing. Each failure is an ``OSError``, which closes it, because a later answer could be taken for
a missing one. ``jetstream`` opens another connection and repeats the requests.

A forked child does not use the connections of its parent. Its copies are closed, which sends nothing to the server.
"""

import base64
import json
import os
import re
import select
import socket
import ssl
import struct
import time
import weakref
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from ... import forks
from ...errors import ConfigurationError

__all__ = ["Connection", "Denied", "Message", "Server"]

ANSWER = 3.0
"""Seconds after which a server that sends nothing counts as gone."""
_CHUNK = 1 << 16
_FULL = 1 << 20  # bytes buffered before they are written
_SLICE = 0.25  # seconds after which a read without data returns
_timeval = struct.Struct("@ll")
_CREDENTIAL = re.compile(r"-----BEGIN [^-]*(JWT|SEED)-----\s*([A-Za-z0-9_.=-]+?)\s*-----")


class Denied(ConnectionError):
    """The server refuses the connection, for example because of a wrong password."""


class Server(NamedTuple):
    """A server. ``name`` is the host name that its certificate must have."""

    host: str
    port: int
    tls: bool
    name: str


class Message(NamedTuple):
    """A message that has arrived."""

    subject: str
    reply: str
    header: bytes
    data: bytes

    @property
    def status(self) -> str:
        """Return the status in the header, as ``404``; empty for none."""
        return self.header[9:12].decode("ascii", "replace").strip()

    @property
    def headers(self) -> dict[str, str]:
        """Return the fields of the header."""
        return headers_of(self.header)


def headers_of(header: bytes) -> dict[str, str]:
    """Return the fields of a header."""
    lines = header.decode("utf-8", "replace").split("\r\n")[1:]
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


class Connection:
    """An open connection.

    :param login: ``user`` and ``password``, ``token``, or ``credentials``, the path of a file.
    :param timeout: seconds for the server to accept it.
    :raises OSError: if the server does not accept the connection.
    """

    def __init__(self, server: Server, login: Mapping[str, str], timeout: float) -> None:
        self._inbox = f"_INBOX.{os.urandom(11).hex()}"
        self._number = self._pongs = 0
        self._out = bytearray()
        self._in = bytearray()
        self._replies: dict[int, Message] = {}
        self._subscriptions: dict[int, Callable[[Message], None]] = {1: self._on_reply}
        self._last_subscription = 1
        self.info: dict[str, Any] = {}
        """What the server has told about itself."""
        self.heard = time.monotonic()
        """When the server has last sent anything."""
        self._socket = self._connect(server, login, timeout)
        weakref.finalize(self, self._socket.close)  # a queue may be dropped without being closed
        forks.register(after_in_child=self.close)

    def _connect(self, server: Server, login: Mapping[str, str], timeout: float) -> socket.socket:
        found = socket.create_connection((server.host, server.port), timeout)
        try:
            found.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.info = json.loads(self._line(found)[5:])  # the server sends no more before a command
            if server.tls or self.info.get("tls_required"):
                found = ssl.create_default_context().wrap_socket(found, server_hostname=server.name)
            said = {"name": "unspool", "lang": "python3", "version": "0", "verbose": False, "pedantic": False}
            said |= {"protocol": 1, "headers": True, "no_responders": True, **_proof(login, self.info)}
            found.sendall(b"CONNECT %b\r\nPING\r\n" % json.dumps(said).encode())
            while (line := self._line(found)) != b"PONG":
                if line.startswith(b"-ERR"):
                    raise Denied(line[5:].decode("utf-8", "replace"))
            found.sendall(f"SUB {self._inbox}.* 1\r\n".encode())
            if isinstance(found, ssl.SSLSocket):
                found.settimeout(_SLICE)
            else:  # timeouts of the kernel need one system call per read, where Python's need two
                found.settimeout(None)
                found.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _timeval.pack(0, int(_SLICE * 1e6)))
                found.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _timeval.pack(int(ANSWER), 0))
        except ConfigurationError:
            found.close()
            raise
        except ValueError as error:
            found.close()
            raise ConnectionError(f"it is no NATS server: {error}") from error
        except BaseException:
            found.close()
            raise
        return found

    def _line(self, found: socket.socket) -> bytes:
        while (end := self._in.find(b"\r\n")) < 0:
            if not (part := found.recv(_CHUNK)):
                raise ConnectionResetError("the server has closed the connection")
            self._in += part
        line = bytes(self._in[:end])
        del self._in[: end + 2]
        return line

    @property
    def max_payload(self) -> int:
        """Return the number of bytes that a message may have."""
        return int(self.info.get("max_payload", 1 << 20))

    @property
    def closed(self) -> bool:
        """Return whether the connection has ended."""
        return self._socket.fileno() < 0

    def fileno(self) -> int:
        """Return the descriptor, which is readable when ``poll`` has something to read."""
        return self._socket.fileno()

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()

    # --- writing

    def send(self, subject: str, data: bytes = b"", headers: Mapping[str, str] | None = None, reply: str = "") -> None:
        """Send a message with the next ``flush``."""
        self._out += f"{'HPUB' if headers else 'PUB'} {subject} {reply}{' ' if reply else ''}".encode()
        if headers:
            lines = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
            head = f"NATS/1.0\r\n{lines}\r\n".encode()
            self._out += b"%d %d\r\n%b%b\r\n" % (len(head), len(head) + len(data), head, data)
        else:
            self._out += b"%d\r\n%b\r\n" % (len(data), data)
        if len(self._out) > _FULL:
            self.flush()

    def ask(self, subject: str, data: bytes = b"", headers: Mapping[str, str] | None = None) -> int:
        """Send a request with the next ``flush``. Return the number of its answer."""
        self._number += 1
        self.send(subject, data, headers, f"{self._inbox}.{self._number}")
        return self._number

    def subscribe(self, subject: str, receive: Callable[[Message], None]) -> int:
        """Call ``receive`` with each message of a subject that arrives. Return the number of the subscription."""
        self._last_subscription += 1
        self._subscriptions[self._last_subscription] = receive
        self._out += f"SUB {subject} {self._last_subscription}\r\n".encode()
        return self._last_subscription

    def unsubscribe(self, number: int) -> None:
        """End a subscription."""
        self._subscriptions.pop(number, None)
        self._out += b"UNSUB %d\r\n" % number

    def drain(self, numbers: Iterable[int]) -> None:
        """End subscriptions, and process what the server sends until it has done so."""
        for number in numbers:
            self._out += b"UNSUB %d\r\n" % number
        before = self._pongs
        self.ping()
        while self._pongs == before:
            self.receive()

    def new_inbox(self) -> str:
        """Return a subject that nothing else uses."""
        return f"_INBOX.{os.urandom(11).hex()}"

    def ping(self) -> None:
        """Ask the server to send something."""
        self._out += b"PING\r\n"
        self.flush()

    def flush(self) -> None:
        """Write what was sent."""
        if self._out:
            try:
                self._socket.sendall(self._out)
            except BaseException:
                self.close()
                raise
            self._out.clear()

    # --- reading

    def answer(self, number: int) -> Message:
        """Wait for an answer and return it."""
        while (reply := self._replies.pop(number, None)) is None:
            self.receive()
        return reply

    def receive(self) -> None:
        """Wait until something arrives, and process it.

        :raises TimeoutError: if the server sends nothing for too long.
        """
        self.flush()
        started = time.monotonic()
        while not self._read():
            if time.monotonic() - started >= ANSWER:
                self.close()
                raise TimeoutError("the server does not answer")

    def poll(self) -> None:
        """Process what has arrived, without waiting."""
        while not self.closed and (self._pending() or select.select([self._socket], [], [], 0)[0]):
            self._read()

    def _pending(self) -> bool:
        return isinstance(self._socket, ssl.SSLSocket) and self._socket.pending() > 0

    def _read(self) -> bool:
        """Process what arrives within a moment. Return False if nothing does."""
        try:
            part = self._socket.recv(_CHUNK)
            if not part:
                raise ConnectionResetError("the server has closed the connection")
            self._process(part)
        except (BlockingIOError, TimeoutError, ssl.SSLWantReadError):
            return False
        except ValueError as error:
            self.close()
            raise ConnectionAbortedError(str(error)) from error
        except BaseException:
            self.close()
            raise
        return True

    def _process(self, part: bytes) -> None:
        self.heard = time.monotonic()
        self._in += part
        while (end := self._in.find(b"\r\n")) >= 0:
            word, *words = bytes(self._in[:end]).split()
            if word in (b"MSG", b"HMSG"):
                size, start = int(words[-1]), end + 2
                end = start + size
                if len(self._in) < end + 2:
                    return
                headed = word == b"HMSG"
                body = start + (int(words[-2]) if headed else 0)
                reply = words[2].decode() if len(words) - headed == 4 else ""
                header, data = bytes(self._in[start:body]), bytes(self._in[body:end])
                del self._in[: end + 2]
                if receive := self._subscriptions.get(int(words[1])):
                    receive(Message(words[0].decode(), reply, header, data))
                continue
            if word == b"PING":
                self._socket.sendall(b"PONG\r\n")
            elif word == b"PONG":
                self._pongs += 1
            elif word == b"INFO":
                self.info |= json.loads(self._in[5:end])
            elif word == b"-ERR" and b"Permissions Violation" not in self._in[:end]:
                raise ConnectionAbortedError(self._in[5:end].decode("utf-8", "replace"))
            del self._in[: end + 2]

    def _on_reply(self, message: Message) -> None:
        self._replies[int(message.subject.rpartition(".")[2])] = message


def _proof(login: Mapping[str, str], info: Mapping[str, Any]) -> dict[str, str]:
    """Return what tells the server who the client is.

    :raises ConfigurationError: if the file with the credentials cannot be used.
    """
    if path := login.get("credentials"):
        try:
            with open(path, encoding="ascii") as file:
                found = dict(_CREDENTIAL.findall(file.read()))
            import nkeys

            signature = nkeys.from_seed(found["SEED"].encode()).sign(str(info.get("nonce", "")).encode())
            return {"jwt": found["JWT"], "sig": base64.urlsafe_b64encode(signature).rstrip(b"=").decode()}
        except ImportError as error:
            raise ConfigurationError(
                "the parameter credentials needs the package nkeys, which is not installed: pip install nkeys"
            ) from error
        except Exception as error:
            raise ConfigurationError(f"the credentials in {path} cannot be used: {error!r}") from error
    names = {"user": "user", "password": "pass", "token": "auth_token"}
    return {names[key]: value for key, value in login.items()}
