"""The file of an item of the key-value table: its name, and its content as bytes.

The name is the key with a comma for each slash and one in front: ``,limit,mail,0``. A key contains no comma and no
other file of the table begins with one, so a name leads back to its key and never out of the directory.

The content is a header and the value. The header has a checksum, because a power cut can leave a file that was not
synced empty or with other bytes.
"""

import math
import os
import struct
import zlib
from typing import NamedTuple

from ...errors import OptionRefused
from ..keyvalue import EPHEMERAL, FOREVER, LARGEST_VALUE, Ephemeral, Item, Life, Until, check_key

__all__ = ["LARGEST_FILE", "SMALLEST_FILE", "Stored", "dump", "key_of", "name_of", "new_version", "parse"]

_MAGIC = b"unspool\1"
_header = struct.Struct("<8sIQBd")  # magic, checksum of all that follows, version, kind of life, end of an ``Until``
_checked = struct.Struct("<QBd")
_FOREVER, _UNTIL, _EPHEMERAL = range(3)

SMALLEST_FILE = _header.size
LARGEST_FILE = _header.size + LARGEST_VALUE


class Stored(NamedTuple):
    """An item and its life, as its file has them."""

    item: Item
    life: Life

    @property
    def ephemeral(self) -> bool:
        """Return whether the item ends with its process."""
        return isinstance(self.life, Ephemeral)


def name_of(key: str) -> str:
    """Return the name of the file of a key."""
    return f",{key}".replace("/", ",")


def key_of(name: str) -> str | None:
    """Return the key of a file's name, or None if it is no item's."""
    if not name.startswith(",") or "/" in name:
        return None
    try:
        return check_key(name[1:].replace(",", "/"))
    except OptionRefused:
        return None


def new_version() -> int:
    """Return a version that no item has had."""
    return int.from_bytes(os.urandom(8), "little") >> 1 or 1


def dump(stored: Stored) -> bytes:
    """Return the content of an item's file."""
    (value, version), life = stored
    kind = _UNTIL if isinstance(life, Until) else _EPHEMERAL if isinstance(life, Ephemeral) else _FOREVER
    fields = version, kind, life.time if isinstance(life, Until) else 0.0
    return _header.pack(_MAGIC, zlib.crc32(value, zlib.crc32(_checked.pack(*fields))), *fields) + value


def parse(data: bytes) -> Stored | None:
    """Return the item of a file's content, or None if it is not one."""
    if not SMALLEST_FILE <= len(data) <= LARGEST_FILE:
        return None
    magic, checksum, version, kind, time = _header.unpack_from(data)
    if magic != _MAGIC or checksum != zlib.crc32(data[_header.size - _checked.size :]) or not version:
        return None
    lives: dict[int, Life] = {_FOREVER: FOREVER, _UNTIL: Until(time), _EPHEMERAL: EPHEMERAL}
    life = lives.get(kind)
    if life is None or not math.isfinite(time):
        return None
    return Stored(Item(data[_header.size :], version), life)
