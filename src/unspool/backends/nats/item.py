"""A message of the key-value table: the item of a key, or the statement that it was dropped.

The payload is the value. Any user with access may write anything into the header, so reading never fails.
"""

import json
from typing import Any, NamedTuple

from ..keyvalue import Item
from .runs import Process
from .stored import HEADER, Stored

__all__ = ["Found", "Header"]


class Header(NamedTuple):
    """The header of a message of the table.

    :param until: when the item ends; None if it has no end.
    :param process: the process of an ephemeral item.
    :param dropped: whether there is no item.
    :param ttl: seconds after which the server deletes the message; 0 for never.
    """

    until: float | None = None
    process: Process | None = None
    dropped: bool = False
    ttl: int = 0

    @classmethod
    def of(cls, header: str) -> "Header":
        """Return the contents of a header. A message with an invalid one is an item without an end."""
        try:
            found: Any = json.loads(header)
            until, process = found.get("until"), Process.of(str(found.get("process", "")))
            ttl = max(int(found.get("ttl", 0)), 0)
            return cls(None if until is None else float(until), process, found.get("dropped") is True, ttl)
        except (ValueError, TypeError, AttributeError, OverflowError, RecursionError):
            return cls()

    def dump(self) -> dict[str, str]:
        """Return the headers of the message."""
        facts: dict[str, Any] = {}
        if self.until is not None:
            facts["until"] = self.until
        if self.process is not None:
            facts["process"] = self.process.key
        if self.dropped:
            facts["dropped"] = True
        if not self.ttl:
            return {HEADER: json.dumps(facts)}
        return {HEADER: json.dumps(facts | {"ttl": self.ttl}), "Nats-TTL": f"{self.ttl}s"}

    def replacing(self, former: "Header") -> "Header":
        """Return the header of a message that replaces this former one. It does not expire earlier."""
        return self._replace(ttl=max(self.ttl, former.ttl) if self.ttl and former.ttl else 0)


class Found(NamedTuple):
    """The last message of a key."""

    stored: Stored
    header: Header

    @property
    def item(self) -> Item:
        """The item of the message."""
        return Item(self.stored.data, self.stored.seq)
