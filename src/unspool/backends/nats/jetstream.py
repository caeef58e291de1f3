"""Requests to JetStream. Each is repeated, on another connection if need be, until it is answered or its time is up.

A repeated publish carries the same message id, so the server stores it once. A repeated deletion of a sequence number
finds the message deleted. No other request writes.
"""

import contextlib
import itertools
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from ...errors import SpoolerUnusable
from .connection import Connection, Denied, Message, Server
from .requests import (
    ID,
    NO_STREAM,
    TEMPORARY,
    ApiError,
    Conflict,
    Request,
    Unreachable,
    condition,
    deletion,
    message_of,
    new_id,
    read,
    unix,
)
from .stored import HEADER, Stored

__all__ = ["JetStream"]

_CONNECT = 2.0  # seconds for one server to accept a connection
_PAUSES = (0.02, 0.05, 0.1, 0.25, 0.5)
_AT_ONCE = 500  # requests without an answer at a time
_PAGE = 256
_PAGE_BYTES = 4 << 20


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

    def poll(self, unused: float = 0.0) -> None:
        """Process what has arrived, such as the news that the server has closed the connection, without waiting.

        :param unused: the minimum of seconds since something has arrived.
        """
        connection = self._connection
        if connection is not None and not connection.closed and time.monotonic() >= connection.heard + unused:
            with contextlib.suppress(OSError):
                connection.poll()

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
        asked = []
        for index in some:
            request = requests[index]
            if len(request.data) > connection.max_payload:  # the limit was lowered after the task was sent
                most = f"{self.shown} takes {connection.max_payload} bytes, and a message has more: raise max_payload"
                found[index] = ApiError(most, 0, index in written)
            else:
                asked.append((index, connection.ask(*request), index in written))
                written.add(index)
        for index, number, repeated in asked:
            reply = connection.answer(number).data  # empty if no responder listens
            answer: dict[str, Any] = json.loads(reply) if reply else {}
            error = answer.get("error")
            if error and int(error.get("err_code", 0)) not in TEMPORARY:
                found[index] = ApiError.of(self.shown, error, repeated=repeated)
            elif answer and not error:
                found[index] = answer

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
                    self._connection.send(*request)
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
                where, when = headers["Nats-Subject"], unix(headers["Nats-Time-Stamp"])
                found.append(Stored(where, int(headers["Nats-Sequence"]), when, headers.get(HEADER, ""), message.data))
        finally:
            connection.unsubscribe(subscription)
