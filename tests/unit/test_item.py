"""The file of an item of a directory's key-value table."""

import random

import pytest

from unspool.backends.keyvalue import EPHEMERAL, FOREVER, LARGEST_VALUE, Item, Life, Until
from unspool.backends.spool.item import Stored, dump, key_of, name_of, parse


@pytest.mark.parametrize("life", [FOREVER, EPHEMERAL, Until(0.0), Until(-1.5), Until(1e300)], ids=str)
@pytest.mark.parametrize("value", [b"", b"\0value\xff", b"x" * LARGEST_VALUE], ids=len)
def test_an_item_can_be_parsed(value: bytes, life: Life) -> None:
    """The content of a file is parsed into the item and its life."""
    stored = Stored(Item(value, (1 << 63) - 1), life)
    assert parse(dump(stored)) == stored


def test_a_damaged_file_has_no_item() -> None:
    """A file that is truncated, extended, partly zeroed or altered in any bit is not an item."""
    data = dump(Stored(Item(b"value", 12345), Until(5.0)))
    for size in range(len(data)):
        assert parse(data[:size]) is None
        assert parse(data[:size] + bytes(len(data) - size)) is None
    assert parse(data + b"\0") is None
    for bit in range(8 * len(data)):
        altered = bytearray(data)
        altered[bit // 8] ^= 1 << bit % 8
        assert parse(bytes(altered)) is None


def test_a_forged_file_has_no_item() -> None:
    """A file with a valid checksum is not an item if its version, its life or its size is invalid."""
    for stored in (
        Stored(Item(b"", 0), FOREVER),
        Stored(Item(b"", 1), Until(float("nan"))),
        Stored(Item(b"", 1), Until(float("inf"))),
        Stored(Item(b"x" * (LARGEST_VALUE + 1), 1), FOREVER),
    ):
        assert parse(dump(stored)) is None


def test_random_bytes_have_no_item() -> None:
    """Random bytes, also after a valid beginning, are not an item."""
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    source = random.Random(seed)
    start = dump(Stored(Item(b"", 1), FOREVER))[:8]
    for size in range(200):
        assert parse(source.randbytes(size)) is None
        assert parse(start + source.randbytes(size)) is None


@pytest.mark.parametrize("key", ["a", "a/b", ".", "..", "a/../b", "-", "A.b:c@d=e+f-g_", "x" * 200, "x/" * 99 + "x"])
def test_a_name_leads_back_to_its_key(key: str) -> None:
    """The name of a file is a single path component, leaves room for a suffix, and leads back to the key."""
    name = name_of(key)
    assert "/" not in name
    assert name not in (".", "..")
    assert len(name) < 255
    assert key_of(name) == key


@pytest.mark.parametrize("name", ["", ",", "lock", "a", ",a,", ",,a", ",a/b", ",ä", ",a b", f",{'x' * 201}", "\udcff"])
def test_other_names_have_no_key(name: str) -> None:
    """The name of any other file has no key."""
    assert key_of(name) is None
