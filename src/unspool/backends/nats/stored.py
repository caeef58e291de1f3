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
"""Bytes of a message that are left for headers, so that a task which may be sent may also be set aside."""
_REASON = 1000
_KEY = re.compile(r"[A-Za-z0-9_-]{1,64}")


class Passage(NamedTuple):
    """Of a task that leaves: its key, the destination that has accepted it, and the process that carries it."""

    key: str
    destination: str = ""
    carrier: str = ""

    @classmethod
    def of(cls, found: Any) -> "Passage | None":
        """Return the passage in a header."""
        try:
            key, destination, carrier = map(str, found)
        except (TypeError, ValueError):
            return None
        return cls(key, destination, carrier) if _KEY.fullmatch(key) else None


class Facts(NamedTuple):
    """The metadata of a task.

    :param due: unix seconds.
    :param attempts: runs that ended, or were begun and lost.
    :param crashes: runs that ended with their worker.
    :param reason: the reason for which it was set aside.
    :param version: the number of messages of this task that this one follows, each of which it replaces.
    :param passage: the stage of a move to another queue.
    :param unhandled: claims by programs that have no handler for it.
    """

    due: float
    attempts: int = 0
    crashes: int = 0
    reason: str = ""
    version: int = 0
    passage: Passage | None = None
    unhandled: int = 0

    @property
    def anew(self) -> bool:
        """Whether the message replaces another one of the same task."""
        return self.version > 0

    def dump(self) -> str:
        """One line of ASCII."""
        facts: dict[str, Any] = {"due": self.due, "attempts": self.attempts, "crashes": self.crashes}
        if self.version:
            facts["version"] = self.version
        if self.passage:
            facts["passage"] = self.passage
        if self.unhandled:
            facts["unhandled"] = self.unhandled
        reason = self.reason[:_REASON]
        while True:
            line = json.dumps(facts | {"reason": reason} if reason else facts)
            if len(line) < ROOM // 2 or not reason:
                return line
            reason = reason[: len(reason) // 2]


class Stored(NamedTuple):
    """A message in a stream. ``seq`` is its number there, which no other will ever have."""

    subject: str
    seq: int
    time: float
    header: str
    data: bytes
    id: str = ""
    """The id under which it was published, where a single message was asked for."""

    def replaced(self, facts: Facts) -> Facts:
        """Return the metadata of a message that replaces this one."""
        return facts._replace(version=self.facts.version + 1)

    @property
    def facts(self) -> Facts:
        """Return the metadata in its header.

        If the header is not ours, return those of a task that was just sent.
        """
        try:
            found: Any = json.loads(self.header)
            due = float(found["due"])
            if math.isfinite(due):
                reason = printable(str(found.get("reason", "")))
                version = _count(found.get("version", found.get("anew") is True))  # ``anew`` is of an earlier unspool
                attempts, crashes = _count(found["attempts"]), _count(found["crashes"])
                unhandled = _count(found.get("unhandled", 0))
                return Facts(due, attempts, crashes, reason, version, Passage.of(found.get("passage")), unhandled)
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
            pass
        return Facts(self.time)


def _count(value: Any) -> int:
    return min(max(int(value), 0), 1 << 31)
