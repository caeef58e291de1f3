"""A counter in the key-value table, which several threads or processes increment."""

from ...backends.keyvalue import KeyValue

__all__ = ["PATIENCE", "increment"]

PATIENCE = 50.0
"""Seconds after which a wait counts as one that nothing has woken."""


def increment(kv: KeyValue, steps: int) -> None:
    """Increment a counter by compare-and-set."""
    while steps:
        (item,) = kv.get(["counter"])
        value = int(item.value) if item else 0
        steps -= kv.put("counter", b"%d" % (value + 1), expect=item.version if item else 0) is not None
