"""The JetStream requests of this backend. Each is repeated until it is answered or its time is up.

A repeated publish carries the same message id, so the server stores it once. A repeated deletion of a sequence number
finds the message deleted. No other request writes.
"""

import asyncio
import base64
import contextlib
import itertools
import json
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from ...errors import SpoolerUnusable
from .async_connection import AsyncConnection, Unreachable
from .stored import HEADER, Stored

__all__ = [
    "ID",
    "NO_STREAM",
    "TEMPORARY",
    "ApiError",
    "Conflict",
    "JetStream",
    "Publication",
    "client_errors",
    "condition",
    "message_of",
    "new_id",
]

_ANSWER = 3.0  # seconds for one answer before the request is repeated
_PAUSES = (0.02, 0.05, 0.1, 0.25, 0.5)
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


class Publication(NamedTuple):
    """A message to store. One of its headers is the message id, so it is stored once."""

    subject: str
    data: bytes
    headers: Mapping[str, str]


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
    """Requests over one connection. All methods run in its loop.

    :param shown: the servers, for messages, as ``NATS at …``.
    """

    def __init__(self, link: AsyncConnection, shown: str) -> None:
        self.link = link
        self._client = link.client
        self.shown = shown
        self.patient = self
        """A view of JetStream that repeats each request until it is answered."""
        self._inbox = ""
        self._asked = itertools.count()
        self._answers: dict[str, asyncio.Future[Any]] = {}

    async def begin(self) -> None:
        """Subscribe once for all answers. The client's own requests cost twice as much."""
        self._inbox = self._client.new_inbox()
        await self._client.subscribe(f"{self._inbox}.*", cb=self._on_answer)

    async def _on_answer(self, message: Any) -> None:
        answer = self._answers.get(message.subject)
        if answer is not None and not answer.done():
            answer.set_result(message)

    async def _request(self, subject: str, data: bytes, headers: Mapping[str, str] | None, timeout: float) -> Any:
        reply = f"{self._inbox}.{next(self._asked)}"
        self._answers[reply] = answer = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(timeout):  # a publish also waits if the server reads nothing
                await self._client.publish(subject, data, reply=reply, headers=dict(headers) if headers else None)
                return await answer
        finally:
            del self._answers[reply]

    async def api(self, verb: str, request: Mapping[str, Any] | None = None, *, patience: float) -> dict[str, Any]:
        """Send a request to the JetStream API and return its answer.

        :param patience: seconds for which the request is repeated if there is no answer.
        :raises ApiError: if the answer is an error.
        :raises Unreachable: if there is no answer.
        """
        data = json.dumps(request).encode() if request else b""
        return await self._ask(f"$JS.API.{verb}", data, None, patience)

    async def publish(
        self,
        stream: str,
        subject: str,
        data: bytes,
        headers: Mapping[str, str] | None = None,
        *,
        patience: float,
        replaces: tuple[str, int] | None = None,
    ) -> int:
        """Store a message once in the stream of its subject, and return its sequence number. A quorum has stored it by
        then.

        :param replaces: a subject, wildcards allowed, and the sequence number of its last message (0 for none).
        :raises Conflict: if the last message has another number.
        """
        sent = {**new_id(), **(condition(*replaces) if replaces else {}), **(headers or {})}
        try:
            return int((await self._ask(subject, data, sent, patience))["seq"])
        except ApiError as error:
            if not error.is_conflict:
                raise
            # The last message may be ours. The server compares sequence numbers before message ids, so it refuses a
            # repeated publish whose first attempt succeeded.
            stored = await self.last(stream, subject, patience=patience) if error.repeated else None
            if stored is None or stored.id != sent[ID]:
                raise Conflict(unsure=error.repeated) from None
            return stored.seq

    async def publish_all(self, messages: Sequence[Publication], *, patience: float) -> None:
        """Store messages concurrently. If one fails, wait for the others before raising.

        :raises SpoolerUnusable: ``sent`` contains the ids of the stored messages.
        """
        works = (self._ask(subject, data, headers, patience) for subject, data, headers in messages)
        results = await asyncio.gather(*works, return_exceptions=True)
        for failure in results:
            if isinstance(failure, SpoolerUnusable):
                stored = zip(messages, results, strict=True)
                failure.sent = tuple(one.headers[ID] for one, result in stored if isinstance(result, dict))
            if isinstance(failure, BaseException):
                raise failure

    async def last(self, stream: str, subject: str, *, patience: float) -> Stored | None:
        """Return the last message of a subject, wildcards allowed, from the stream's leader."""
        return await self._get(stream, {"last_by_subj": subject}, patience)

    async def get(self, stream: str, seq: int, *, patience: float) -> Stored | None:
        """Return the message with this number."""
        return await self._get(stream, {"seq": seq}, patience)

    async def next(self, stream: str, subject: str, start: int, *, patience: float) -> Stored | None:
        """Return the first message of a subject, wildcards allowed, at or after a number, from the stream's leader."""
        return await self._get(stream, {"seq": start, "next_by_subj": subject}, patience)

    @staticmethod
    def deletion(stream: str, seq: int) -> tuple[str, bytes]:
        """Return the request that deletes a message."""
        return f"$JS.API.STREAM.MSG.DELETE.{stream}", b'{"seq": %d, "no_erase": true}' % seq

    async def delete(self, stream: str, seq: int, *, patience: float) -> bool:
        """Delete a message. Return False if it does not exist."""
        try:
            await self._ask(*self.deletion(stream, seq), None, patience)
        except ApiError as error:
            if error.nothing_there:
                return error.repeated  # then an earlier attempt deleted it and its answer was lost
            raise
        return True

    async def drop(self, stream: str, seq: int) -> None:
        """Delete a message without waiting for an answer. Only for messages whose deletion may fail."""
        with contextlib.suppress(client_errors()):
            await self._client.publish(*self.deletion(stream, seq))

    async def info(self, stream: str, *, patience: float, count: str = "") -> dict[str, Any] | None:
        """Return a stream's settings and state, or None if the stream does not exist.

        :param count: a subject with wildcards; ``total`` is then the number of matching subjects.
        """
        # An offset past the end returns the count alone.
        request = {"subjects_filter": count, "offset": 1 << 40} if count else None
        try:
            return await self.api(f"STREAM.INFO.{stream}", request, patience=patience)
        except ApiError as error:
            if error.code == NO_STREAM:
                return None
            raise

    async def subjects(self, stream: str, filter: str, *, patience: float) -> AsyncIterator[str]:
        """Yield the subjects of a stream's messages without reading the messages, in no particular order.

        :param filter: a subject with wildcards.
        """
        offset, total = 0, 1
        while offset < total:
            request = {"subjects_filter": filter, "offset": offset}
            try:
                page = await self.api(f"STREAM.INFO.{stream}", request, patience=patience)
            except ApiError as error:
                if error.code == NO_STREAM:
                    return
                raise
            found = page["state"].get("subjects") or {}
            for subject in found:
                yield subject
            offset, total = offset + len(found), page.get("total", 0) if found else 0

    async def consumers(self, stream: str, *, patience: float) -> list[str]:
        """Return the names of a stream's consumers."""
        found: list[str] = []
        while True:
            page = await self.api(f"CONSUMER.NAMES.{stream}", {"offset": len(found)}, patience=patience)
            found += page["consumers"] or []
            if not page["consumers"] or len(found) >= page["total"]:
                return found

    async def read(self, stream: str, subject: str, *, patience: float, start: int = 1) -> AsyncIterator[Stored]:
        """Yield the messages of a subject, wildcards allowed, in order, without consuming them."""
        while True:
            page = await self.page(stream, subject, start, patience=patience)
            for stored in page:
                yield stored
            if not page:
                return
            start = page[-1].seq + 1

    async def page(self, stream: str, subject: str, start: int, *, patience: float) -> list[Stored]:
        """Return some of these messages from a sequence number on. The list is empty if there are no more."""
        loop = asyncio.get_running_loop()
        end = loop.time() + patience
        while True:
            try:
                return await self._page(stream, subject, start)
            except TimeoutError:
                if loop.time() >= end:
                    raise self._unreachable() from None
                await asyncio.sleep(_PAUSES[1])

    async def _page(self, stream: str, subject: str, start: int) -> list[Stored]:
        inbox = self._client.new_inbox()
        sub = await self._client.subscribe(inbox)
        request = {"seq": start, "next_by_subj": subject, "batch": _PAGE, "max_bytes": _PAGE_BYTES}
        found: list[Stored] = []
        try:
            await self._client.publish(f"$JS.API.DIRECT.GET.{stream}", json.dumps(request).encode(), reply=inbox)
            while True:
                message = await sub.next_msg(timeout=_ANSWER)
                headers = message.headers or {}
                if "Nats-Sequence" not in headers:
                    if headers.get("Status") == "503":
                        raise TimeoutError
                    return found
                found.append(
                    Stored(
                        headers["Nats-Subject"],
                        int(headers["Nats-Sequence"]),
                        _unix(headers["Nats-Time-Stamp"]),
                        headers.get(HEADER, ""),
                        message.data,
                    )
                )
        except Exception as error:
            if type(error).__name__ == "TimeoutError":
                raise TimeoutError from None
            raise
        finally:
            await sub.unsubscribe()

    async def _get(self, stream: str, request: Mapping[str, Any], patience: float) -> Stored | None:
        try:
            return message_of(await self.api(f"STREAM.MSG.GET.{stream}", request, patience=patience))
        except ApiError as error:
            if error.nothing_there:
                return None
            raise

    async def _ask(
        self, subject: str, data: bytes, headers: Mapping[str, str] | None, patience: float
    ) -> dict[str, Any]:
        from nats import errors

        loop = asyncio.get_running_loop()
        end = loop.time() + patience
        # An empty answer comes from the client's server and means that no responder listens.
        nobody = {"error": {"err_code": TEMPORARY[0]}}
        for number in range(1_000_000):
            left = end - loop.time()
            if number and left <= 0:
                break
            try:
                message = await self._request(subject, data, headers, min(_ANSWER, max(left, 0.1)))
                answer: dict[str, Any] = json.loads(message.data) if message.data else nobody
            except errors.MaxPayloadError:  # the limit was lowered after the task was sent
                text = f"{self.shown} takes {self._client.max_payload} bytes, and a message has more: raise max_payload"
                raise ApiError(text, 0, number > 0) from None
            except (errors.Error, TimeoutError):
                answer = nobody
            if "error" not in answer:
                return answer
            error = answer["error"]
            code = int(error.get("err_code", 0))
            if code not in TEMPORARY:
                raise ApiError.of(self.shown, error, repeated=number > 0)
            await asyncio.sleep(_PAUSES[min(number, len(_PAUSES) - 1)])
        raise self._unreachable()

    def _unreachable(self) -> Unreachable:
        if not self._client.is_connected:
            return Unreachable(f"{self.shown} cannot be reached")
        return Unreachable(f"JetStream of {self.shown} does not answer; check that it is enabled and has a leader")


def message_of(answer: Mapping[str, Any]) -> Stored:
    """Return the message in an answer."""
    message = answer["message"]
    lines = base64.b64decode(message.get("hdrs", "")).decode("utf-8", "replace").split("\r\n")
    headers = {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}
    data, when = base64.b64decode(message.get("data", "")), _unix(message["time"])
    header, id = headers.get(HEADER, ""), headers.get(ID, "")
    return Stored(message["subject"], int(message["seq"]), when, header, data, id)


def _unix(text: str) -> float:
    """Return the Unix time of an RFC 3339 time with nanoseconds."""
    head, _, rest = text.partition(".")
    digits = rest.rstrip("Z")[:6] if rest else ""
    whole = datetime.fromisoformat(head.rstrip("Z") + "+00:00").timestamp()
    return whole + (int(digits) / 10 ** len(digits) if digits.isdigit() else 0.0)


def client_errors() -> type[Exception]:
    """Return the base class of the client's exceptions."""
    from nats import errors

    return errors.Error
