"""The wire form of an envelope: uWSGI's spool file, byte for byte, on every ground.

A 4-byte header (modifier1 = 17, size of the variables as little-endian u16, modifier2 = 0), the variables (each u16 key
length, key, u16 value length, value), and the body up to the end. Source: ``core/spooler.c`` of unbit/uwsgi.

A sealed envelope ends its variables with ``unspool_sum``, eight hex digits of the CRC-32 of all variables before it
and the
body. It is the damage check and is verified before anything is decoded. uWSGI reads such a file like any other.
"""

import struct
from collections.abc import Mapping
from zlib import crc32

from .errors import Damaged, PayloadRefused
from .message import Envelope

__all__ = ["HEADER_SIZE", "MAX_SIZE", "MAX_VARS", "dump", "load", "load_parts", "load_vars"]

HEADER_SIZE = 4
MAX_VARS = 0xFFFF
MAX_SIZE = 1 << 30
"""The most bytes that a task may have: it is held in memory, and a file of any size may lie about."""
_MODIFIER = 17
_SUM_KEY = b"\x0b\x00unspool_sum\x08\x00"
_SUM_SIZE = len(_SUM_KEY) + 8

_header = struct.Struct("<BHB").pack
_unpack_size = struct.Struct("<H").unpack_from
_sizes = [struct.pack("<H", n) for n in range(256)]  # most keys and values are short


def dump(vars: Mapping[str, bytes], body: bytes) -> bytes:
    """The bytes of a sealed envelope.

    :raises Damaged: if the variables exceed the 65535 bytes that the format can hold.
    :raises PayloadRefused: if the body is larger than any task may be.
    """
    if len(body) > MAX_SIZE - MAX_VARS - HEADER_SIZE:
        raise PayloadRefused(
            f"the payload takes {len(body)} bytes; pass what is larger than {MAX_SIZE} by a file's path"
        )
    parts: list[bytes] = []
    for key, value in vars.items():
        name = key.encode("utf-8", "surrogateescape")
        parts += (_size(len(name)), name, _size(len(value)), value)
    head = b"".join(parts)
    size = len(head) + _SUM_SIZE
    if size > MAX_VARS:
        raise Damaged(f"the variables take {size} bytes; the format holds {MAX_VARS}")
    return b"%b%b%b%08x%b" % (_header(_MODIFIER, size, 0), head, _SUM_KEY, crc32(body, crc32(head)), body)


def load(data: bytes, *, priority: int | None = None, due: float | None = None) -> Envelope:
    """The envelope in ``data``, its seal verified if it has one.

    :raises Damaged: if the bytes are cut short, inconsistent, or do not match their seal. Nothing is decoded then.
    """
    if len(data) < HEADER_SIZE:
        raise Damaged(f"cut short: {len(data)} bytes, and a task has a header of {HEADER_SIZE}")
    (size,) = _unpack_size(data, 1)
    end = HEADER_SIZE + size
    if end > len(data):
        raise Damaged(f"cut short: the variables end at byte {end}, the data at {len(data)}")
    body = data[end:]
    seal = end - _SUM_SIZE
    sealed = seal >= HEADER_SIZE and data[seal : end - 8] == _SUM_KEY
    if sealed and data[end - 8 : end] != b"%08x" % crc32(body, crc32(data[HEADER_SIZE:seal])):
        raise Damaged("altered or cut short: the checksum does not match")
    return Envelope(_variables(data, HEADER_SIZE, seal if sealed else end), body, priority, due, sealed)


def load_parts(vars: Mapping[str, bytes], body: bytes, *, priority: int | None = None) -> Envelope:
    """The envelope of variables and body that somebody else has taken apart, in their order, its seal verified.

    :raises Damaged: as ``load``.
    """
    if "unspool_sum" not in vars:
        return Envelope(vars, body, priority, None, False)
    rest = {key: value for key, value in vars.items() if key != "unspool_sum"}
    sealed = dump(rest, body)
    if sealed[len(sealed) - len(body) - 8 : len(sealed) - len(body)] != vars["unspool_sum"]:
        raise Damaged("altered or cut short: the checksum does not match")
    return Envelope(rest, body, priority, None, True)


def load_vars(data: bytes) -> Envelope:
    """The variables alone, for listings: the body is left empty and the seal not verified.

    :raises Damaged: if they are cut short or inconsistent.
    """
    if len(data) < HEADER_SIZE:
        raise Damaged(f"cut short: {len(data)} bytes, and a task has a header of {HEADER_SIZE}")
    end = HEADER_SIZE + _unpack_size(data, 1)[0]
    if end > len(data):
        raise Damaged(f"cut short: the variables end at byte {end}, the data at {len(data)}")
    return Envelope(_variables(data, HEADER_SIZE, end), b"", None, None, False)


def _variables(data: bytes, at: int, end: int) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    key: bytes | None = None
    while at < end:
        start = at + 2
        at = start + _unpack_size(data, at)[0] if start <= end else start
        if at > end:
            raise Damaged(f"inconsistent: a length at byte {start - 2} reaches beyond the variables")
        if key is None:
            key = data[start:at]
        else:
            found[key.decode("utf-8", "surrogateescape")] = data[start:at]
            key = None
    if key is not None:
        raise Damaged("inconsistent: a variable without a value")
    return found


def _size(n: int) -> bytes:
    if n < len(_sizes):
        return _sizes[n]
    if n > MAX_VARS:
        raise Damaged(f"a variable of {n} bytes; the format holds {MAX_VARS}")
    return struct.pack("<H", n)
