"""The requests to JetStream, and their answers."""

import base64
import json
import os
from collections.abc import Mapping
from datetime import datetime
from typing import Any, NamedTuple

from ...errors import SpoolerUnreachable, SpoolerUnusable
from .connection import headers_of
from .stored import HEADER, Stored

__all__ = [
    "ID",
    "NO_STREAM",
    "TEMPORARY",
    "ApiError",
    "Conflict",
    "Request",
    "Unreachable",
    "condition",
    "deletion",
    "message_of",
    "new_id",
    "read",
    "unix",
]

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
    data, when = base64.b64decode(message.get("data", "")), unix(message["time"])
    return Stored(message["subject"], int(message["seq"]), when, headers.get(HEADER, ""), data, headers.get(ID, ""))


def unix(text: str) -> float:
    """Return the Unix time of an RFC 3339 time with nanoseconds."""
    head, _, rest = text.partition(".")
    digits = rest.rstrip("Z")[:6] if rest else ""
    whole = datetime.fromisoformat(head.rstrip("Z") + "+00:00").timestamp()
    return whole + (int(digits) / 10 ** len(digits) if digits.isdigit() else 0.0)
