"""The bytes of an envelope: uWSGI's format, and damage that is detected before anything is decoded."""

import contextlib
import random
from functools import partial
from zlib import crc32

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unspool import wire
from unspool.errors import Damaged
from unspool.message import Content

# As core/spooler.c of uWSGI writes it: modifier1, the size of the variables, modifier2, the variables, the body.
PLAIN = b"\x03\x00msg\x05\x00hello\x08\x00priority\x01\x003"
SEALED = b"\x11\x30\x00\x00" + PLAIN + b"\x0b\x00unspool_sum\x08\x00" + b"%08x" % crc32(PLAIN + b"BODY") + b"BODY"
VARS = {"msg": b"hello", "priority": b"3"}
SEAL_AT = wire.HEADER_SIZE + len(PLAIN)


def test_dump_is_byte_for_byte_uwsgis_format() -> None:
    """A sealed envelope equals a file of uWSGI that was built by hand, whose last variable is the checksum."""
    assert wire.dump(VARS, b"BODY", None) == SEALED


def test_a_foreign_file_is_read() -> None:
    """A file of uWSGI has no seal, and is read with any second modifier."""
    data = b"\x11\x14\x00\x07" + b"\x03\x00msg\x05\x00hello" + b"\x02\x00at\x02\x0012" + b"\x00\x00BODY"
    assert wire.load(data, None, priority=4, due=5.0) == Content(
        {"msg": b"hello", "at": b"12"}, b"\0\0BODY", 4, 5.0, False
    )


def test_a_key_that_is_no_text() -> None:
    """The names of a program's own variables may be any bytes, which are read and written unchanged."""
    data = b"\x11\x07\x00\x00" + b"\x02\x00k\xff\x01\x00v"
    vars = wire.load(data, None).vars
    assert wire.dump(vars, b"", None)[wire.HEADER_SIZE :].startswith(data[wire.HEADER_SIZE :])
    assert wire.load(wire.dump(vars, b"", None), None).vars == vars


def test_a_sealed_file_is_read_without_its_seal() -> None:
    """The seal is verified and is not among the variables. Priority and due time are those of the parameters."""
    assert wire.load(SEALED, None, priority=3, due=1.0) == Content(VARS, b"BODY", 3, 1.0, True)


def test_the_variables_alone() -> None:
    """A listing needs only the head of a file, and sees the seal as an ordinary variable."""
    head = SEALED[: -len(b"BODY")]
    found = wire.load_vars(head)
    assert found.vars == VARS | {"unspool_sum": head[-8:]}
    assert (found.body, found.sealed) == (b"", False)


@given(
    vars=st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), max_size=300), st.binary(max_size=300)),
    body=st.binary(max_size=1000),
)
def test_what_is_dumped_is_loaded(vars: dict[str, bytes], body: bytes) -> None:
    """Any variables and body: empty ones, long ones, any bytes."""
    assert wire.load(wire.dump(vars, body, None), None) == Content(vars, body, None, None, True)


@pytest.mark.parametrize("body", [b"", b"BODY", b"x" * 300])
def test_every_truncation_of_a_sealed_file_is_damaged(body: bytes) -> None:
    """A file that is truncated anywhere, in the header, a variable, the seal or the body, is not accepted as a task."""
    data = wire.dump(VARS, body, None)
    for length in range(len(data)):
        with pytest.raises(Damaged):
            wire.load(data[:length], None)


def test_every_flip_of_a_sealed_file_is_damage_or_harmless_or_unseals_it() -> None:
    """Each byte is replaced by each other value. The two modifiers mean nothing, so their loss changes nothing. In the
    variables, the checksum and the body, every flip is damage. Only flips in the size and in the name of the seal can
    leave an acceptable envelope, which is not sealed. Flips in the name of the seal leave its task unchanged.
    """
    modifiers, size = {0, 3}, {1, 2}
    seal_name = set(range(SEAL_AT, SEAL_AT + len(b"\x0b\x00unspool_sum\x08\x00")))
    whole = wire.load(SEALED, None)
    for at in range(len(SEALED)):
        for flip in range(1, 256):
            data = bytearray(SEALED)
            data[at] ^= flip
            try:
                found = wire.load(bytes(data), None)
            except Damaged:
                assert at not in modifiers
                continue
            if at in modifiers:
                assert found == whole
            else:
                assert at in size | seal_name
                assert not found.sealed
            if at in seal_name:
                assert (found.vars | VARS, found.body) == (found.vars, whole.body)
                assert len(found.vars) == len(VARS) + 1


def test_garbage_is_damaged_or_unsealed() -> None:
    """Random bytes, with and without a plausible header, are never accepted as sealed, and never raise another
    error.
    """
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")
    generator = random.Random(seed)
    for _ in range(20_000):
        rest = generator.randbytes(generator.randrange(64))
        if generator.random() < 0.8:  # lengths that fit now and then
            rest = bytes(byte if generator.random() < 0.4 else byte % 4 for byte in rest)
            rest = b"\x11%c\x00\x00" % generator.randrange(len(rest) + 2) + rest
        for read in (partial(wire.load, signer=None), wire.load_vars):
            with contextlib.suppress(Damaged):
                assert not read(rest).sealed


def test_garbage_in_a_sealed_file_is_found() -> None:
    """Several random bytes are overwritten: what is still accepted as sealed is unchanged."""
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")
    generator = random.Random(seed)
    whole = wire.load(SEALED, None)
    for _ in range(20_000):
        data = bytearray(SEALED)
        for _ in range(generator.randrange(1, 12)):
            data[generator.randrange(len(data))] = generator.randrange(256)
        try:
            found = wire.load(bytes(data), None)
        except Damaged:
            continue
        assert found == whole or not found.sealed


def test_a_swapped_body_is_damaged() -> None:
    """The seal binds variables and body together: those of two tasks do not make a third one."""
    with pytest.raises(Damaged, match="checksum"):
        wire.load(SEALED[: -len(b"BODY")] + b"BODZ", None)


def test_variables_up_to_the_formats_limit() -> None:
    """The size field holds at most 65535 bytes of variables, including the seal. One more is refused."""
    room = wire.MAX_VARS - len(b"\x0b\x00unspool_sum\x08\x00") - 8 - len(b"\x01\x00k\x00\x00")
    data = wire.dump({"k": b"x" * room}, b"BODY", None)
    assert data[1:3] == b"\xff\xff"
    assert wire.load(data, None).vars == {"k": b"x" * room}
    with pytest.raises(Damaged, match="65535"):
        wire.dump({"k": b"x" * (room + 1)}, b"BODY", None)


@pytest.mark.parametrize("vars", [{"k": b"x" * 65536}, {"k" * 65536: b""}, {"k": b"x" * 40_000, "l": b"x" * 40_000}])
def test_variables_beyond_the_formats_limit(vars: dict[str, bytes]) -> None:
    """A value, a key or their sum that the format cannot hold is refused, not truncated."""
    with pytest.raises(Damaged, match="65535"):
        wire.dump(vars, b"", None)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "cut short"),
        (b"\x11\x00\x00", "cut short"),
        (b"\x11\x05\x00\x00abc", "cut short"),
        (b"\x11\x01\x00\x00a", "reaches beyond"),
        (b"\x11\x04\x00\x00\x09\x00ab", "reaches beyond"),
        (b"\x11\x05\x00\x00\x03\x00msg", "without a value"),
        (b"\x11\x06\x00\x00\x03\x00msg\x05", "reaches beyond"),
    ],
)
def test_why_it_is_damaged(data: bytes, reason: str) -> None:
    """The reason says what is wrong, for the whole file as for its head."""
    for read in (partial(wire.load, signer=None), wire.load_vars):
        with pytest.raises(Damaged, match=reason):
            read(data)
