"""A second, synchronous connection of a process, for frequent requests. An event loop would cost more than they do.

It is a plain socket that the calling thread writes and reads. It repeats nothing: each failure raises ``Broken``, and
the caller repeats the request on the asyncio connection. A repeated publish carries the same message id, so the server
stores it once.
"""

import contextlib
import json
import os
import socket
import ssl
import struct
import time
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from typing import Any, TypeVar
from urllib.parse import ParseResult

from .jetstream import TEMPORARY, ApiError, JetStream, Publication, message_of
from .stored import Stored

__all__ = ["Broken", "SyncConnection", "at_once"]

T = TypeVar("T")

_ANSWER = 2.0  # seconds to wait for an answer before the asyncio connection is used
_CHUNK = 1 << 16
_FULL = 1 << 20  # bytes buffered before they are written
_timeval = struct.Struct("@ll")


class Broken(Exception):
    """This connection cannot answer."""


class SyncConnection(JetStream):
    """JetStream over a separate socket. It is not thread-safe, and its coroutines never wait for a loop.

    :param patient: JetStream over the asyncio connection.
    :param server: the server that the asyncio connection uses.
    :param login: ``user`` and ``password``, or ``token``.
    :raises Broken: if the server does not accept the connection.
    """

    def __init__(self, patient: JetStream, server: ParseResult, login: Mapping[str, str]) -> None:
        super().__init__(patient.link, patient.shown)
        self.patient = patient
        self.server = server
        self._inbox = f"_INBOX.{os.urandom(11).hex()}"
        self._number = self._flushed = 0
        self._out = bytearray()
        self._in = bytearray()
        self._replies: dict[int, bytes] = {}
        self._ignored: set[int] = set()
        try:
            self._socket = self._connect(server, login)
        except OSError as error:  # includes the errors of ssl
            raise Broken(str(error)) from error

    def _connect(self, server: ParseResult, login: Mapping[str, str]) -> socket.socket:
        host, port = server.hostname or "localhost", server.port or 4222
        found = socket.create_connection((host, port), _ANSWER)
        try:
            found.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            line = b""
            while not line.endswith(b"\n"):  # the server sends nothing else before it receives a command
                line += (part := found.recv(_CHUNK))
                if not part:
                    raise ConnectionResetError("the server hung up")
            info = json.loads(line.partition(b" ")[2])
            if server.scheme == "tls" or info.get("tls_required"):
                found = ssl.create_default_context().wrap_socket(found, server_hostname=host)
            # Kernel timeouts need one system call per read, where Python's timeouts need two.
            found.settimeout(None)
            seconds = _timeval.pack(int(_ANSWER), 0)
            found.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, seconds)
            found.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, seconds)
            names = {"user": "user", "password": "pass", "token": "auth_token"}
            said: dict[str, Any] = {names[key]: value for key, value in login.items()}
            said |= {"name": "unspool", "lang": "python3", "version": "0", "verbose": False, "pedantic": False}
            said |= {"protocol": 1, "headers": True, "no_responders": True}
            found.sendall(b"CONNECT %b\r\nSUB %b.* 1\r\n" % (json.dumps(said).encode(), self._inbox.encode()))
        except BaseException:
            found.close()
            raise
        return found

    @property
    def closed(self) -> bool:
        """Return whether the connection has ended permanently."""
        return self._socket.fileno() < 0

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()

    # --- requests and answers

    def send(self, subject: str, data: bytes, headers: Mapping[str, str] | None = None, *, asks: bool = True) -> int:
        """Send a message with the next flush. Return the number of its answer if ``asks`` is True."""
        self._number += 1
        reply = f"{self._inbox}.{self._number} " if asks else ""
        if headers:
            lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
            head = f"NATS/1.0\r\n{lines}\r\n".encode()
            self._out += f"HPUB {subject} {reply}{len(head)} {len(head) + len(data)}\r\n".encode() + head
        else:
            self._out += f"PUB {subject} {reply}{len(data)}\r\n".encode()
        self._out += data
        self._out += b"\r\n"
        if len(self._out) > _FULL:
            self.flush()
        return self._number

    def flush(self) -> None:
        """Write the buffered requests.

        :raises Broken: if the connection fails.
        """
        if self._out:
            with self._whole():
                self._socket.sendall(self._out)
            self._out.clear()
        self._flushed = self._number

    def answer(self, number: int) -> dict[str, Any]:
        """Wait for the answer to a request and return it.

        :raises Broken: if there is no usable answer in time.
        :raises ApiError: if the answer is an error.
        """
        if number > self._flushed:
            self.flush()
        with self._whole():
            end = time.monotonic() + _ANSWER
            while (reply := self._replies.pop(number, None)) is None:
                self._receive()
                if time.monotonic() > end:
                    raise TimeoutError
            answer: dict[str, Any] = json.loads(reply) if reply else {}
            error = answer.get("error")
            if not answer or (error and error.get("err_code") in TEMPORARY):
                raise ConnectionAbortedError("it has no leader just now")
        if error:
            raise ApiError.of(self.shown, error, repeated=False)
        return answer

    def ignore(self, number: int) -> None:
        """Drop the answer to a request that has not been read, now or when it arrives."""
        if self._replies.pop(number, None) is None:
            self._ignored.add(number)

    @contextlib.contextmanager
    def _whole(self) -> Iterator[None]:
        """Close the connection if a request gets no answer, because a later answer could be taken for the missing
        one."""
        try:
            yield
        except (OSError, ValueError) as error:
            self.close()
            raise Broken(str(error)) from error
        except BaseException:
            self.close()
            raise

    def _receive(self) -> None:
        part = self._socket.recv(_CHUNK)
        if not part:
            raise ConnectionResetError("the server hung up")
        self._in += part
        while (end := self._in.find(b"\r\n")) >= 0:
            word, *words = bytes(self._in[:end]).split()
            if word in (b"MSG", b"HMSG"):
                size, start = int(words[-1]), end + 2
                if len(self._in) < start + size + 2:
                    return
                headers = int(words[-2]) if word == b"HMSG" else 0
                number = int(words[0].rpartition(b".")[2])
                if number in self._ignored:
                    self._ignored.discard(number)
                else:
                    self._replies[number] = bytes(self._in[start + headers : start + size])
                end = start + size
            elif word == b"PING":
                self._socket.sendall(b"PONG\r\n")
            elif word == b"-ERR":
                raise ConnectionAbortedError(self._in[:end].decode("utf-8", "replace"))
            del self._in[: end + 2]

    # --- JetStream

    async def _ask(
        self, subject: str, data: bytes, headers: Mapping[str, str] | None, patience: float
    ) -> dict[str, Any]:
        return self.answer(self.send(subject, data, headers))

    def ask_for_last(self, stream: str, subject: str) -> int:
        """Request ``last`` with the next flush, and return the number of its answer."""
        return self.send(f"$JS.API.STREAM.MSG.GET.{stream}", json.dumps({"last_by_subj": subject}).encode())

    def last_of(self, number: int) -> Stored | None:
        """Return the message in an answer."""
        try:
            return message_of(self.answer(number))
        except ApiError as error:
            if error.nothing_there:
                return None
            raise

    async def publish_all(self, messages: Sequence[Publication], *, patience: float) -> None:
        failure = None
        for number in [self.send(*message) for message in messages]:
            try:
                self.answer(number)
            except ApiError as error:  # the other answers are read too, so that they do not accumulate
                failure = failure or error
        if failure is not None:
            raise failure

    def drop_later(self, stream: str, seq: int) -> None:
        """Request ``drop`` with the next flush."""
        self.send(*self.deletion(stream, seq), asks=False)


def at_once(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that waits only for a ``SyncConnection``, and return its result."""
    try:
        work.send(None)
    except StopIteration as end:
        result: T = end.value
        return result
    work.close()
    raise RuntimeError("this would have to wait for an event loop")
