"""The interface of a queue's key-value table. Features that must agree across processes and hosts are built on it.

The table belongs to the queue, and all processes that use the queue see it. It is meant for small values that change
rarely: switches, keys of unique tasks, slots of limits, results.
"""

import math
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

from ..errors import OptionRefused

__all__ = [
    "EPHEMERAL", "FOREVER", "LARGEST_VALUE", "Ephemeral", "Forever", "Item", "KeyValue", "Life", "Until", "check_key",
    "check_life", "check_value",
]  # fmt: skip

LARGEST_VALUE = 1 << 20
"""The maximum size of a value in bytes."""

_KEY = re.compile(r"[A-Za-z0-9_.:@=+-]+(/[A-Za-z0-9_.:@=+-]+)*")
_LONGEST_KEY = 200


class Forever:
    """The item stays until it is dropped."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "FOREVER"


class Until(NamedTuple):
    """The item is absent from a time on.

    :param time: unix seconds, of the clock of the backend.
    """

    time: float


class Ephemeral:
    """The item is absent as soon as the process that has put it ends, even if the process is killed.

    It belongs to that process alone: a child that is forked later neither keeps nor ends it. ``Backend.close`` also
    ends the items that this backend object has put. On a server, other machines may see the item for some more seconds.
    """

    __slots__ = ()

    def __repr__(self) -> str:
        return "EPHEMERAL"


Life = Forever | Until | Ephemeral
FOREVER, EPHEMERAL = Forever(), Ephemeral()


class Item(NamedTuple):
    """A value, and a version above 0 by which a change of the key is recognised.

    A key never has the same version twice, even if it was dropped in between.
    """

    value: bytes
    version: int


class KeyValue(Protocol):
    """A table of small values with compare-and-set.

    A key is a path of ASCII letters, digits and ``_ . : @ = + -``, of at most 200 characters, such as ``limit/mail/0``.
    A value has at most ``LARGEST_VALUE`` bytes. Each method raises ``OptionRefused`` for others, and
    ``SpoolerUnusable`` if the table cannot be reached. Each change is atomic: a process that is killed in between
    leaves the old item or the new one. A change is on the disk, as a sent task is, when the method returns.
    """

    def get(self, keys: Sequence[str]) -> list[Item | None]:
        """Return the items of these keys in order; None where there is none."""

    def put(self, key: str, value: bytes, *, expect: int | None = None, life: Life = FOREVER) -> int | None:
        """Set a value with its life, and return its new version.

        :param expect: put only if the key has this version, or only if there is no item for 0.
        :param life: how long the item stays.
        :returns: None if ``expect`` does not hold. Nothing is changed then.
        """

    def drop(self, key: str, *, expect: int | None = None) -> bool:
        """Remove an item. Return whether there was one.

        :param expect: remove it only if it has this version.
        """

    def scan(self, prefix: str, after: str = "", limit: int = 1000) -> list[tuple[str, Item]]:
        """Return items whose keys begin with ``prefix``, in the order of the ASCII codes of their keys.

        :param prefix: any beginning of a key; empty for all keys.
        :param after: only later keys: the last one of the page before.
        :param limit: the maximum number of items. A page with fewer items is the last one.
        """

    def wait(self, versions: Mapping[str, int], timeout: float) -> bool:
        """Wait until a key has another version than this, without polling where the backend can notify.

        A change between the reading of a version and this call is not missed. The end of an item's life is a change
        too, but does not always wake a wait at once.

        :param versions: the known version of each key; 0 for no item.
        :param timeout: seconds.
        :returns: False if nothing has changed in that time.
        """


def check_key(key: str, *, prefix: bool = False) -> str:
    """Return the key if it is valid.

    :param prefix: whether a beginning of a key is also valid.
    :raises OptionRefused: if it is not.
    """
    if isinstance(key, str) and len(key) <= _LONGEST_KEY:
        whole = key.removesuffix("/") if prefix else key
        if _KEY.fullmatch(whole) or (prefix and not key):
            return key
    raise OptionRefused(
        f"{key!r:.300} is no key: a key has 1 to {_LONGEST_KEY} ASCII letters, digits and _.:@=+-, with single slashes "
        "between them"
    )


def check_value(value: bytes) -> bytes:
    """Return the value if it is valid.

    :raises OptionRefused: if it is not.
    """
    if not isinstance(value, bytes):
        raise OptionRefused(f"a value must be bytes, not {type(value).__name__}")
    if len(value) > LARGEST_VALUE:
        raise OptionRefused(f"a value of {len(value)} bytes is too large: at most {LARGEST_VALUE} are kept")
    return value


def check_life(life: Life) -> Life:
    """Return the life if it is valid.

    :raises OptionRefused: if it is not.
    """
    if isinstance(life, Until):
        if isinstance(life.time, int | float) and math.isfinite(life.time):
            return life
        raise OptionRefused(f"{life.time!r} is no end of an item: it must be a number of unix seconds")
    if isinstance(life, Forever | Ephemeral):
        return life
    raise OptionRefused(f"{life!r} is no life of an item: use FOREVER, EPHEMERAL or Until(unix seconds)")
