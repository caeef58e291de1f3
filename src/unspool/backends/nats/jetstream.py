"""The JetStream requests of this backend. Each is repeated until it is answered or its time is up.

A repeated publish carries the same message id, so the server stores it once. A repeated deletion of a sequence number
finds the message deleted. No other request writes.
"""

import base64
import contextlib
import itertools
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from ...errors import SpoolerUnreachable, SpoolerUnusable
from .connection import Connection, Denied, Message, Server, headers_of
from .stored import HEADER, Stored

__all__ = [
    "ID",
    "NO_STREAM",
    "TEMPORARY",
    "ApiError",
    "Conflict",
    "JetStream",
    "Request",
    "Unreachable",
    "condition",
    "deletion",
    "message_of",
    "new_id",
    "read",
]

_CONNECT = 2.0  # seconds for one server to accept a connection
_PAUSES = (0.02, 0.05, 0.1, 0.25, 0.5)
_AT_ONCE = 500  # requests without an answer at a time
_PAGE = 256
_PAGE_BYTES = 4 << 20

ID = "Nats-Msg-Id"
"""The header with the message id. The server stores a message with a given id once."""
_NOT_FOUND = 10037
NO_STREAM = 10059
_NO_SEQUENCE = 10043
_NOT_DELETED = 10057
_WRONG_SEQUENCE = (10071, 10164)
_FULL = (10023, 10047, 10002)  # the storage limits of the server and of the account
TEMPORARY = (10008, 10009, 10118)
"""The codes of temporary errors: no leader, leader unknown, system temporarily unavailable."""


class ApiError(SpoolerUnusable):
    """An error that JetStream answered.

    :param code: the error code of JetStream.
    :param repeated: whether an earlier, unanswered attempt of the request may have succeeded.
    """

    def __init__(self, text: str, code: int, repeated: bool) -> None:
        super().__init__(text)
        self.code = code
        self.repeated = repeated

    @classmethod
    def of(cls, shown: str, error: Mapping[str, Any], *, repeated: bool) -> "ApiError":
        """Return the error of an answer."""
        code, why = int(error.get("err_code", 0)), error.get("description", error)
        hint = "; the storage is full: raise the limit of the servers or of the account, or remove tasks"
        return cls(f"{shown}: {why}{hint if code in _FULL else ''}", code, repeated)

    @property
    def nothing_there(self) -> bool:
        """Return whether the error means that the message does not exist."""
        gone = self.code == _NOT_DELETED and "no message found" in str(self)  # a message before the first of the stream
        return gone or self.code in (_NOT_FOUND, _NO_SEQUENCE)

    @property
    def is_full(self) -> bool:
        """Return whether the storage has no room for the message."""
        return self.code in _FULL

    @property
    def is_conflict(self) -> bool:
        """Return whether a conditional publish failed because the last message is another."""
        return self.code in _WRONG_SEQUENCE


class Unreachable(SpoolerUnreachable):
    """No server answers, or none accepts the connection."""


class Request(NamedTuple):
    """A message that is sent for an answer. A message to store has its message id in a header."""

    subject: str
    data: bytes = b""
    headers: Mapping[str, str] | None = None
    answered: bool = True

    def told(self) -> "Request":
        """Return this request without an answer. It may be lost, and its result is unknown."""
        return self._replace(answered=False)


def new_id() -> dict[str, str]:
    """Return a header with a new message id."""
    return {ID: os.urandom(12).hex()}


class Conflict(Exception):
    """The message to replace is no longer the last one.

    :param unsure: whether an earlier, unanswered attempt may have replaced it and was then replaced itself.
    """

    def __init__(self, unsure: bool = False) -> None:
        super().__init__()
        self.unsure = unsure


def condition(subject: str, seq: int) -> dict[str, str]:
    """Return headers that make a publish fail unless ``seq`` is the last message of a subject (wildcards allowed)."""
    return {"Nats-Expected-Last-Subject-Sequence": str(seq), "Nats-Expected-Last-Subject-Sequence-Subject": subject}


class JetStream:
    """Requests over one connection, which is opened again when it breaks. One thread at a time may use it.

    :param servers: the servers. The first is the one that was last reached.
    :param shown: the servers, for messages, as ``NATS at …``.
    :param patience: seconds for which a request is repeated if there is no answer.
    """

    def __init__(self, servers: list[Server], login: Mapping[str, str], shown: str, patience: float) -> None:
        self._servers = servers
        self._login = login
        self.shown = shown
        self.patience = patience
        self.on_open: Callable[[Connection], None] = lambda _: None
        """Called with each new connection."""
        self._connection: Connection | None = None
        self._why = ""  # the reason why the servers cannot be reached

    # --- the connection

    @property
    def is_open(self) -> bool:
        """Return whether there is a connection, as far as is known."""
        return self._connection is not None and not self._connection.closed

    def open(self, *, once: bool = False) -> Connection:
        """Return the connection, opened if necessary.

        :param once: whether each server is tried only once.
        :raises Unreachable: if no server accepts it.
        """
        if self._connection is not None and not self._connection.closed:
            return self._connection
        end = time.monotonic() + self.patience
        for number in itertools.count():
            try:
                return self._opened(end)
            except OSError:
                if number + 1 >= len(self._servers) if once else not self._pause(number, end):
                    raise self._unreachable() from None
        raise AssertionError

    def _opened(self, end: float) -> Connection:
        connection = self._connection
        if connection is None or connection.closed:
            server = self._servers[0]
            try:
                timeout = min(_CONNECT, max(end - time.monotonic(), 0.1))
                connection = self._connection = Connection(server, self._login, timeout)
                self.on_open(connection)
            except OSError as error:
                what = "used" if isinstance(error, Denied) else "reached"
                self._why = f" cannot be {what}: {error.strerror or error}"
                if self._servers[0] == server:  # otherwise another thread has done this
                    self._servers.append(self._servers.pop(0))
                raise
            self._why = ""
            self._learn(connection, server)
        return connection

    def _learn(self, connection: Connection, server: Server) -> None:
        """Note the other servers of the cluster."""
        for url in connection.info.get("connect_urls") or ():
            host, _, port = str(url).rpartition(":")
            found = server._replace(host=host.strip("[]"), port=int(port) if port.isdigit() else 4222)
            if all((found.host, found.port) != (one.host, one.port) for one in self._servers):
                self._servers.append(found)

    @staticmethod
    def _pause(number: int, end: float) -> bool:
        """Wait before a further attempt. Return False if there is no time for one."""
        wait = _PAUSES[min(number, len(_PAUSES) - 1)]
        if time.monotonic() + wait >= end:
            return False
        time.sleep(wait)
        return True

    def _unreachable(self) -> Unreachable:
        if not self.is_open and self._why:
            return Unreachable(f"{self.shown}{self._why}")
        return Unreachable(f"JetStream of {self.shown} does not answer; check that it is enabled and has a leader")

    def refresh(self) -> None:
        """Process what has arrived while the connection was not used. The server may have closed it."""
        if self._connection is not None and not self._connection.closed:
            with contextlib.suppress(OSError):
                self._connection.poll()

    def close(self) -> None:
        """Close the connection. The next request opens another."""
        if self._connection is not None:
            self._connection.close()

    # --- requests

    def ask_all(self, requests: Sequence[Request]) -> list[dict[str, Any] | SpoolerUnusable]:
        """Send requests at once. Return for each its answer or its error.

        The error of a request without an answer is ``Unreachable``.
        """
        found: list[dict[str, Any] | SpoolerUnusable | None] = [None] * len(requests)
        left, written, end = range(len(requests)), set[int](), time.monotonic() + self.patience
        for number in itertools.count():
            for at in range(0, len(left), _AT_ONCE):
                try:
                    self._ask_some(requests, left[at : at + _AT_ONCE], found, written, end)
                except OSError as error:
                    self._why = self._why or f" cannot be reached: {error.strerror or error}"
                    break
                except BaseException:
                    self.close()  # an answer of this call could be taken for one of the next
                    raise
            left = [i for i in left if found[i] is None]  # type: ignore[assignment]
            if not left or not self._pause(number, end):
                break
        return [self._unreachable() if one is None else one for one in found]

    def _ask_some(
        self, requests: Sequence[Request], some: Sequence[int], found: list[Any], written: set[int], end: float
    ) -> None:
        connection = self._opened(end)
        asked, told = [], []
        for index in some:
            request = requests[index]
            if len(request.data) > connection.max_payload:  # the limit was lowered after the task was sent
                most = f"{self.shown} takes {connection.max_payload} bytes, and a message has more: raise max_payload"
                found[index] = ApiError(most, 0, index in written)
            elif request.answered:
                asked.append((index, connection.ask(*request[:3]), index in written))
                written.add(index)
            else:
                connection.send(*request[:3])
                told.append(index)
        for index, number, repeated in asked:
            reply = connection.answer(number).data  # empty if no responder listens
            answer: dict[str, Any] = json.loads(reply) if reply else {}
            error = answer.get("error")
            if error and int(error.get("err_code", 0)) not in TEMPORARY:
                found[index] = ApiError.of(self.shown, error, repeated=repeated)
            elif answer and not error:
                found[index] = answer
        for index in told:  # before the answers, they may have been lost with the connection
            found[index] = {}

    def ask(self, request: Request) -> dict[str, Any]:
        """Send a request, repeat it until it is answered, and return the answer.

        :raises ApiError: if the answer is an error.
        :raises Unreachable: if there is no answer.
        """
        (answer,) = self.ask_all([request])
        if isinstance(answer, SpoolerUnusable):
            raise answer
        return answer

    def tell(self, *requests: Request) -> None:
        """Send requests without waiting for answers. They may be lost."""
        if self._connection is not None and not self._connection.closed:
            with contextlib.suppress(OSError):
                for request in requests:
                    self._connection.send(*request[:3])
                self._connection.flush()

    def api(self, verb: str, request: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Send a request to the JetStream API and return its answer. Raises as ``ask``."""
        return self.ask(Request(f"$JS.API.{verb}", json.dumps(request).encode() if request else b""))

    def publish(
        self,
        stream: str,
        subject: str,
        data: bytes,
        headers: Mapping[str, str] | None = None,
        *,
        replaces: tuple[str, int] | None = None,
    ) -> int:
        """Store a message once in the stream of its subject, and return its sequence number. A quorum has stored it by
        then.

        :param replaces: a subject, wildcards allowed, and the sequence number of its last message (0 for none).
        :raises Conflict: if the last message has another number.
        """
        sent = {**new_id(), **(condition(*replaces) if replaces else {}), **(headers or {})}
        try:
            return int(self.ask(Request(subject, data, sent))["seq"])
        except ApiError as error:
            if not error.is_conflict:
                raise
            # The last message may be ours. The server compares sequence numbers before message ids, so it refuses a
            # repeated publish whose first attempt succeeded.
            stored = self.last(stream, subject) if error.repeated else None
            if stored is None or stored.id != sent[ID]:
                raise Conflict(unsure=error.repeated) from None
            return stored.seq

    def publish_all(self, messages: Sequence[Request]) -> None:
        """Store messages. If one fails, the others are stored nevertheless.

        :raises SpoolerUnusable: ``sent`` contains the ids of the stored messages.
        """
        answers = self.ask_all(messages)
        failure = next((one for one in answers if isinstance(one, SpoolerUnusable)), None)
        if failure is not None:
            stored = zip(messages, answers, strict=True)
            failure.sent = tuple((one.headers or {})[ID] for one, answer in stored if isinstance(answer, dict))
            raise failure

    def last(self, stream: str, subject: str) -> Stored | None:
        """Return the last message of a subject, wildcards allowed, from the stream's leader."""
        return self._get(stream, {"last_by_subj": subject})

    def get(self, stream: str, seq: int) -> Stored | None:
        """Return the message with this number."""
        return self._get(stream, {"seq": seq})

    def next(self, stream: str, subject: str, start: int) -> Stored | None:
        """Return the first message of a subject, wildcards allowed, at or after a number, from the stream's leader."""
        return self._get(stream, {"seq": start, "next_by_subj": subject})

    def _get(self, stream: str, wanted: Mapping[str, Any]) -> Stored | None:
        return message_of(*self.ask_all([read(stream, wanted)]))

    def delete(self, stream: str, seq: int) -> bool:
        """Delete a message. Return False if it does not exist."""
        try:
            self.ask(deletion(stream, seq))
        except ApiError as error:
            if error.nothing_there:
                return error.repeated  # then an earlier attempt deleted it and its answer was lost
            raise
        return True

    def info(self, stream: str, *, count: str = "") -> dict[str, Any] | None:
        """Return a stream's settings and state, or None if the stream does not exist.

        :param count: a subject with wildcards; ``total`` is then the number of matching subjects.
        """
        # An offset past the end returns the count alone.
        request = {"subjects_filter": count, "offset": 1 << 40} if count else None
        try:
            return self.api(f"STREAM.INFO.{stream}", request)
        except ApiError as error:
            if error.code == NO_STREAM:
                return None
            raise

    def subjects(self, stream: str, filter: str) -> Iterator[str]:
        """Yield the subjects of a stream's messages without reading the messages, in no particular order.

        :param filter: a subject with wildcards.
        """
        offset, total = 0, 1
        while offset < total:
            request = {"subjects_filter": filter, "offset": offset}
            try:
                page = self.api(f"STREAM.INFO.{stream}", request)
            except ApiError as error:
                if error.code == NO_STREAM:
                    return
                raise
            found = page["state"].get("subjects") or {}
            yield from found
            offset, total = offset + len(found), page.get("total", 0) if found else 0

    def consumers(self, stream: str) -> list[str]:
        """Return the names of a stream's consumers."""
        found: list[str] = []
        while True:
            page = self.api(f"CONSUMER.NAMES.{stream}", {"offset": len(found)})
            found += page["consumers"] or []
            if not page["consumers"] or len(found) >= page["total"]:
                return found

    def read(self, stream: str, subject: str, *, start: int = 1) -> Iterator[Stored]:
        """Yield the messages of a subject, wildcards allowed, in order, without consuming them."""
        while page := self.page(stream, subject, start):
            yield from page
            start = page[-1].seq + 1

    def page(self, stream: str, subject: str, start: int) -> list[Stored]:
        """Return some of these messages from a sequence number on. The list is empty if there are no more."""
        end = time.monotonic() + self.patience
        for number in itertools.count():
            with contextlib.suppress(OSError):
                return self._page(stream, subject, start, end)
            if not self._pause(number, end):
                break
        raise self._unreachable()

    def _page(self, stream: str, subject: str, start: int, end: float) -> list[Stored]:
        found, arrived, connection = list[Stored](), list[Message](), self._opened(end)
        inbox = connection.new_inbox()
        subscription = connection.subscribe(inbox, arrived.append)
        request = {"seq": start, "next_by_subj": subject, "batch": _PAGE, "max_bytes": _PAGE_BYTES}
        try:
            connection.send(f"$JS.API.DIRECT.GET.{stream}", json.dumps(request).encode(), reply=inbox)
            while True:
                while not arrived:
                    connection.receive()
                message = arrived.pop(0)
                headers = message.headers
                if "Nats-Sequence" not in headers:
                    if message.status == "503":
                        raise TimeoutError
                    return found
                where, when = headers["Nats-Subject"], _unix(headers["Nats-Time-Stamp"])
                found.append(Stored(where, int(headers["Nats-Sequence"]), when, headers.get(HEADER, ""), message.data))
        finally:
            connection.unsubscribe(subscription)


def read(stream: str, wanted: Mapping[str, Any]) -> Request:
    """Return the request for a message."""
    return Request(f"$JS.API.STREAM.MSG.GET.{stream}", json.dumps(wanted).encode())


def deletion(stream: str, seq: int) -> Request:
    """Return the request that deletes a message."""
    return Request(f"$JS.API.STREAM.MSG.DELETE.{stream}", b'{"seq": %d, "no_erase": true}' % seq)


def message_of(answer: Mapping[str, Any] | SpoolerUnusable) -> Stored | None:
    """Return the message in an answer, or None if there is none.

    :raises SpoolerUnusable: if the answer is another error.
    """
    if isinstance(answer, ApiError) and answer.nothing_there:
        return None
    if isinstance(answer, SpoolerUnusable):
        raise answer
    message = answer["message"]
    headers = headers_of(base64.b64decode(message.get("hdrs", "")))
    data, when = base64.b64decode(message.get("data", "")), _unix(message["time"])
    return Stored(message["subject"], int(message["seq"]), when, headers.get(HEADER, ""), data, headers.get(ID, ""))


def _unix(text: str) -> float:
    """Return the Unix time of an RFC 3339 time with nanoseconds."""
    head, _, rest = text.partition(".")
    digits = rest.rstrip("Z")[:6] if rest else ""
    whole = datetime.fromisoformat(head.rstrip("Z") + "+00:00").timestamp()
    return whole + (int(digits) / 10 ** len(digits) if digits.isdigit() else 0.0)
