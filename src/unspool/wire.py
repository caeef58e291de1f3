"""The wire form of a task: uWSGI's spool file, byte for byte, on every backend.

A 4-byte header (modifier1 = 17, size of the variables as little-endian u16, modifier2 = 0), the variables (each u16 key
length, key, u16 value length, value), and the body up to the end. Source: ``core/spooler.c`` of unbit/uwsgi.

A sealed task ends its variables with ``unspool_sum``, eight hex digits of the CRC-32 of all variables before it and
the body. It detects damage, and is verified before anything is decoded. uWSGI reads such a file like any other.

A signed task has two further variables before the checksum: ``unspool_queue``, the queue to which it was sent, and
``unspool_sig``, the signature of all variables before it and the body. A process without a key verifies only the
checksum. The variable ``unspool_foreign`` marks a task of another program, which had no seal until a person vouched for
it (``unspool move --sign-unsigned``).
"""

import functools
import struct
from collections.abc import Mapping
from zlib import crc32

from .errors import Damaged, Unsigned
from .message import Content
from .signing import SIGNATURE_SIZE, Signer

__all__ = ["HEADER_SIZE", "MAX_VARS", "SEAL", "Packed", "dump", "load", "load_vars", "readdress"]

HEADER_SIZE = 4
MAX_VARS = 0xFFFF
_MODIFIER = 17
_SUM_KEY = b"\x0b\x00unspool_sum\x08\x00"
_SUM_SIZE = len(_SUM_KEY) + 8
_SIG_KEY = b"\x0b\x00unspool_sig%c\x00" % SIGNATURE_SIZE
_SIG_SIZE = len(_SIG_KEY) + SIGNATURE_SIZE
_QUEUE = "unspool_queue"
_FOREIGN = "unspool_foreign"
SEAL = frozenset({_QUEUE, "unspool_sig", "unspool_sum", _FOREIGN})
"""The variables of a seal. A sender cannot use these names."""

_header = struct.Struct("<BHB").pack
_unpack_size = struct.Struct("<H").unpack_from
_sizes = [struct.pack("<H", n) for n in range(256)]  # most keys and values are short


def dump(vars: Mapping[str, bytes], body: bytes, signer: Signer | None) -> bytes:
    """Return the bytes of a sealed task.

    :param signer: signs the task; None if no secret key is set.
    :raises Damaged: if the variables exceed the 65535 bytes that the format can hold.
    """
    head = _pack(vars if signer is None else {**vars, _QUEUE: signer.queue})
    if signer is not None:
        head += _SIG_KEY + signer.sign(head, body)
    size = len(head) + _SUM_SIZE
    if size > MAX_VARS:
        raise Damaged(f"the variables take {size} bytes; the format holds {MAX_VARS}")
    return b"%b%b%b%08x%b" % (_header(_MODIFIER, size, 0), head, _SUM_KEY, crc32(body, crc32(head)), body)


def load(data: bytes, signer: Signer | None, *, priority: int | None = None, due: float | None = None) -> Content:
    """Return the content in ``data``, after verifying its seal if it has one.

    :param signer: verifies the signature, which is then required; None if no secret key is set.
    :raises Damaged: if the bytes are cut short, inconsistent, or do not match their checksum.
    :raises Unsigned: if they are complete, but not signed with a key of the signer. In both cases, nothing is decoded.
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
    if not sealed:
        if signer is not None:
            raise Unsigned(_UNSIGNED)
        return Content(_variables(data, HEADER_SIZE, end), body, priority, due, False)
    if data[end - 8 : end] != b"%08x" % crc32(body, crc32(data[HEADER_SIZE:seal])):
        raise Damaged("altered or cut short: the checksum does not match")
    signature = seal - _SIG_SIZE
    if signature < HEADER_SIZE or data[signature : seal - SIGNATURE_SIZE] != _SIG_KEY:
        if signer is not None:
            raise Unsigned(_UNSIGNED)
        return Content(_variables(data, HEADER_SIZE, seal), body, priority, due)
    if signer is None:
        found = _variables(data, HEADER_SIZE, signature)
        found.pop(_QUEUE, None)
        return Content(found, body, priority, due, found.pop(_FOREIGN, None) is None)
    head = data[HEADER_SIZE:signature]
    genuine = signer.verify(head, body, data[seal - SIGNATURE_SIZE : seal])
    found = _variables(head, 0, len(head))
    queue = found.pop(_QUEUE, b"")
    if not genuine:
        raise Unsigned(_why_not(queue, signer))
    return Content(found, body, priority, due, found.pop(_FOREIGN, None) is None)


def readdress(data: bytes, queue: str, old: Signer | None, new: Signer | None, *, vouch: bool = False) -> bytes:
    """Return the bytes of a task for another queue. They change only if the task has to be signed for that queue.

    :param queue: the name of the other queue; ``new`` signs for it, ``old`` verifies. Both are None without a secret
        key.
    :param vouch: True to sign a task that has no signature.
    :raises Damaged: as for ``load``.
    :raises Unsigned: if it is not signed as required, or if it is signed and there is no key to sign it again.
    """
    if old is None or new is None:
        load(data, None)
        signed = _signed_for(data)
        if signed is not None and signed != queue:
            raise Unsigned(f"signed for the queue {signed!r}; without the secret key it cannot be signed for {queue!r}")
        return data
    try:
        content = load(data, old)
    except Unsigned:
        if not vouch or _signed_for(data) is not None:
            raise
        content = load(data, None)
    else:
        if old.queue == new.queue:
            return data
    vars = content.vars if content.sealed else {**content.vars, _FOREIGN: b"1"}
    return dump(vars, content.body, new)


def _signed_for(data: bytes) -> str | None:
    """Return the queue for which a complete task is signed, with any key; None if it is not signed."""
    end = HEADER_SIZE + _unpack_size(data, 1)[0]
    signature = end - _SUM_SIZE - _SIG_SIZE
    if signature < HEADER_SIZE or not data.startswith(_SIG_KEY, signature):
        return None
    queue = _variables(data, HEADER_SIZE, signature).get(_QUEUE, b"")
    return queue.decode("utf-8", "surrogateescape")


def load_vars(data: bytes) -> Content:
    """Return the content without its body, for listings. The seal is not verified.

    :raises Damaged: if they are cut short or inconsistent.
    """
    if len(data) < HEADER_SIZE:
        raise Damaged(f"cut short: {len(data)} bytes, and a task has a header of {HEADER_SIZE}")
    end = HEADER_SIZE + _unpack_size(data, 1)[0]
    if end > len(data):
        raise Damaged(f"cut short: the variables end at byte {end}, the data at {len(data)}")
    return Content(_variables(data, HEADER_SIZE, end), b"", None, None, False)


_UNSIGNED = "unsigned, and here a secret key is set: its sender has none"


def _why_not(queue: bytes, signer: Signer) -> str:
    if queue != signer.queue:
        sent, here = (name.decode("utf-8", "backslashreplace") for name in (queue[:200], signer.queue))
        return f"signed for the queue {sent!r}, and this is {here!r}"
    return "the signature does not match: altered, or signed with a secret key that is not set here"


class Packed(dict[str, bytes]):
    """Variables that many tasks share, with their packed form."""

    __slots__ = ("data",)

    def __init__(self, vars: Mapping[str, bytes]) -> None:
        super().__init__(vars)
        self.data = _pack(vars)


def _pack(vars: Mapping[str, bytes]) -> bytes:
    if type(vars) is Packed:
        return vars.data
    return b"".join([_put_together(*item) for item in vars.items()])


def _put_together(key: str, value: bytes) -> bytes:
    name = key.encode("utf-8", "surrogateescape")
    return b"%b%b%b%b" % (_size(len(name)), name, _size(len(value)), value)


def _variables(data: bytes, at: int, end: int) -> dict[str, bytes]:
    block = data[at:end]
    return dict(_known(block)) if len(block) <= _SHORT else _taken_apart(block)


def _taken_apart(data: bytes) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    key: bytes | None = None
    at, end = 0, len(data)
    while at < end:
        start = at + 2
        at = start + _unpack_size(data, at)[0] if start <= end else start
        if at > end:
            raise Damaged(f"inconsistent: a length at byte {HEADER_SIZE + start - 2} reaches beyond the variables")
        if key is None:
            key = data[start:at]
        else:
            found[key.decode("utf-8", "surrogateescape")] = data[start:at]
            key = None
    if key is not None:
        raise Damaged("inconsistent: a variable without a value")
    return found


_SHORT = 512
_known = functools.lru_cache(256)(_taken_apart)


def _size(n: int) -> bytes:
    if n < len(_sizes):
        return _sizes[n]
    if n > MAX_VARS:
        raise Damaged(f"a variable of {n} bytes; the format holds {MAX_VARS}")
    return struct.pack("<H", n)
