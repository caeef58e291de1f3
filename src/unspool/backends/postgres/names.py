"""The names of a queue and its tasks, inside and outside the database."""

from typing import Any

from ...address import Address

__all__ = ["Names"]

_LARGEST = 2**63 - 1
_CHANNEL_SIZE = 63  # the maximum length of a name; queues with the same truncated name wake each other


class Names:
    """The names of one spooler. Tasks are numbers inside the database, and ``<name>/<number>`` outside."""

    def __init__(self, address: Address) -> None:
        self.spooler = address.spooler
        self.channel = f"unspool_{address.spooler}"[:_CHANNEL_SIZE]
        self.item_channel = f"unspool_items_{address.spooler}"[:_CHANNEL_SIZE]
        self.name = address.name

    def values(self) -> dict[str, Any]:
        """Return the parameters of most statements."""
        return {"spooler": self.spooler, "channel": self.channel}

    def id(self, number: int | str) -> str:
        """Return a task's id."""
        return f"{self.name}/{number}"

    def number(self, id: str) -> int | None:
        """Return the number in an id, a ref, or the end of an id. Return None if it does not belong to this queue."""
        lead, _, digits = id.rpartition("/")
        if lead not in ("", self.spooler, self.name) or not (digits.isascii() and digits.isdigit()):
            return None
        number = int(digits[:20])
        return number if number <= _LARGEST else None
