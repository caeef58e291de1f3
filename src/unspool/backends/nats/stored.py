"""A message as a stream stores it, and the task's metadata in its header: due time, attempts, crashes, reason.

The payload is the wire form, the same bytes as a spool file. Values that change from run to run are in one header. Any
user with access may write anything there, so reading never fails.
"""

import json
import math
import re
from typing import Any, NamedTuple

from ...printable import printable

__all__ = ["HEADER", "ROOM", "Facts", "Passage", "Stored"]

HEADER = "Unspool"
ROOM = 4096
"""Bytes reserved for headers, so that any task that can be sent can also become a dead letter."""
_REASON = 1000
_KEY = re.compile(r"[A-Za-z0-9_-]{1,64}")


class Passage(NamedTuple):
    """The state of a task in transfer: its key, the destination that has staged it, and the process that carries it."""

    key: str
    destination: str = ""
    carrier: str = ""

    @classmethod
    def of(cls, found: Any) -> "Passage | None":
        """Return the state in a header, or None if it is invalid."""
        try:
            key, destination, carrier = map(str, found)
        except (TypeError, ValueError):
            return None
        return cls(key, destination, carrier) if _KEY.fullmatch(key) else None


class Facts(NamedTuple):
    """The metadata of a task.

    :param due: Unix time.
    :param attempts: runs that ended, or were started and lost.
    :param crashes: runs that ended with their worker.
    :param reason: the reason why the task is a dead letter.
    :param version: the number of earlier messages of this task, each of which the next one replaces.
    :param passage: the state of a transfer to another queue.
    :param unhandled: claims by programs that have no handler for the task.
    :param alone: whether the task must not be claimed together with others, because it may have killed its worker and
        supervisor.
    :param key_start: whether the start of the task frees its key, which is in its token.
    :param key_until: the time from which the key is free; None if there is none.
    """

    due: float
    attempts: int = 0
    crashes: int = 0
    reason: str = ""
    version: int = 0
    passage: Passage | None = None
    unhandled: int = 0
    alone: bool = False
    key_start: bool = False
    key_until: float | None = None

    @property
    def anew(self) -> bool:
        """Return whether the message replaces another message of the same task."""
        return self.version > 0

    def dump(self) -> str:
        """Return the metadata as one line of ASCII."""
        facts: dict[str, Any] = {"due": self.due, "attempts": self.attempts, "crashes": self.crashes}
        if self.version:
            facts["version"] = self.version
        if self.passage:
            facts["passage"] = self.passage
        if self.unhandled:
            facts["unhandled"] = self.unhandled
        if self.alone:
            facts["alone"] = True
        if self.key_start:
            facts["key_start"] = True
        if self.key_until is not None:
            facts["key_until"] = self.key_until
        reason = self.reason[:_REASON]
        while True:
            line = json.dumps(facts | {"reason": reason} if reason else facts)
            if len(line) < ROOM // 2 or not reason:
                return line
            reason = reason[: len(reason) // 2]


class Stored(NamedTuple):
    """A message in a stream. ``seq`` is its sequence number, which is never reused."""

    subject: str
    seq: int
    time: float
    header: str
    data: bytes
    id: str = ""
    """The message id, if a single message was requested."""

    def replaced(self, facts: Facts) -> Facts:
        """Return the metadata of a message that replaces this one."""
        return facts._replace(version=self.facts.version + 1)

    @property
    def facts(self) -> Facts:
        """Return the metadata in the header.

        If the header is invalid, return the metadata of a newly sent task.
        """
        try:
            found: Any = json.loads(self.header)
            due = float(found["due"])
            if math.isfinite(due):
                reason = printable(str(found.get("reason", "")))
                version = _count(found.get("version", found.get("anew") is True))  # written by an earlier version
                attempts, crashes = _count(found["attempts"]), _count(found["crashes"])
                unhandled, passage = _count(found.get("unhandled", 0)), Passage.of(found.get("passage"))
                alone = found.get("alone") is True
                start, until = found.get("key_start") is True, found.get("key_until")
                until = None if until is None else float(until)
                return Facts(due, attempts, crashes, reason, version, passage, unhandled, alone, start, until)
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
            pass
        return Facts(self.time)


def _count(value: Any) -> int:
    return min(max(int(value), 0), 1 << 31)
