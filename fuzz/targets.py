"""What must hold for any bytes, as a file in a spool directory and as the words of a command line."""

import contextlib
import functools
import io
import os
import pickle
import struct
import sys
from typing import Any
from zlib import crc32

from unspool import codec, dispatch, inspection, settings, wire
from unspool.backends.change import Remove
from unspool.backends.spool import SpoolBackend
from unspool.cli import main, output
from unspool.errors import Damaged
from unspool.message import NOTHING, Bury, Claim, Message, Refusal, Release, State
from unspool.signing import Signer
from unspool.testing.exchange import claim_one, settle_one

__all__ = ["SAFE_PICKLE", "SEEDS", "TARGETS", "command_line", "spool_file", "start"]

SIGNER = Signer(["k" * 32], "mail")
_FUTURE = 4e9  # the clock of the backends: past any grace for files in the writing


# --- a file in a spool directory


def spool_file(data: bytes) -> None:
    """Check a file with this content: it runs only if it is what was sealed, affects no other task, and causes no
    unexpected error.

    The first byte decides whether the rest is used unchanged, or with a matching checksum, which no fuzzer guesses.
    """
    kind, content = data[:1], data[1:]
    if kind in (b"c", b"s"):
        content = _with_checksum(content, signed=kind == b"s")
    _check_bytes(content)
    _check_file(content)


def _with_checksum(content: bytes, *, signed: bool) -> bytes:
    """Return the variables and the body, sealed by a forger who can make a checksum, and the form of a signature."""
    if len(content) < 2:
        return content
    (size,) = struct.unpack_from("<H", content)
    head, body = content[2 : 2 + size % 4096], content[2 + size % 4096 :]
    if signed:
        head += b"\x0b\x00unspool_sig\x2b\x00" + (head + b"A" * 43)[-43:]
    head_size = len(head) + 23
    return b"\x11%b\x00%b\x0b\x00unspool_sum\x08\x00%08x%b" % (
        struct.pack("<H", head_size & 0xFFFF),
        head,
        crc32(body, crc32(head)),
        body,
    )


def _check_bytes(content: bytes) -> None:
    with contextlib.suppress(Damaged):
        assert wire.load(content, SIGNER)[:2] in _signed(), "a forged signature passed"
    try:
        found = wire.load(content, None)
    except Damaged:
        return
    if not wire.SEAL.isdisjoint(found.vars):
        return  # variables of another program that have names of the seal, which unspool refuses to send
    again = wire.load(wire.dump(found.vars, found.body, None), None)
    assert (again.vars, again.body) == (found.vars, found.body)
    assert set(found.vars) <= set(wire.load_vars(content).vars)
    label = output.clean(codec.task_label(found.vars))
    assert label.isprintable() or not label.isascii()
    codec.is_bare(found)
    answer = dispatch.prepare(Claim("x/y", "y", NOTHING, 1, 0), found, 0.0)
    assert isinstance(answer, dispatch.Call | dispatch.Outcome)


def _check_file(content: bytes) -> None:
    backend = _backend()
    name = "uwsgi_spoolfile_on_fuzz_1_1_1_1_1"
    path = os.path.join(backend.name, name)
    with open(path, "wb") as file:
        file.write(content)
    os.utime(path, (1, 1))
    try:
        assert inspection.find(backend, path) is not None
        assert inspection.read(backend, path) is not None
        answer = claim_one(backend, name)
        if isinstance(answer, Claim):
            settle_one(backend, answer, Release())
            answer = claim_one(backend, name)
            assert isinstance(answer, Claim)
            settle_one(backend, answer, Bury("looked at", begun=False))
        assert isinstance(answer, Claim | Refusal)
        (entry,) = inspection.tasks(backend)
        assert entry.state in (State.DEAD, State.CORRUPT)
        assert entry.reason
        with open(entry.id, "rb") as file:
            assert file.read() == content, "the bytes were changed"
        backend.change(entry.id, Remove())
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
    assert not list(inspection.tasks(backend))


def _backend() -> SpoolBackend:
    return _opened[os.getcwd()]


@functools.cache
def _signed() -> list[tuple[Any, bytes]]:
    """Return the envelopes of the seeds that have a signature."""
    return [(envelope.vars, envelope.body) for envelope in map(codec.encode, _MESSAGES)]


class _Plain(pickle.Unpickler):
    """An unpickler that creates only plain objects, because a fuzzer must not write programs that this process then
    runs.
    """

    def find_class(self, module: str, name: str) -> Any:
        raise AttributeError(f"no {module}.{name} here")


SAFE_PICKLE = codec.SERIALIZERS["pickle"]._replace(load=lambda data: _Plain(io.BytesIO(data)).load())
"""To be put in the place of the real one, before any target is called."""


# --- the words of a command line

_WORDS = [
    "ls", "show", "history", "retry", "rm", "purge", "pause", "resume", "status", "set-period", "enqueue", "doctor",
    "--state", "dead", "ready", "bogus", "--limit", "0", "-1", "3", "--json", "--failed", "--all-dead", "--older-than",
    "1d", "1h30m", "--yes", "--spooler", "mail", "./file", "/dev/null", "", "--", "-", "-5", "--priority", "--in",
    "--at", "2030-01-01", "--args", "[]", "[1,2]", "--kwargs", "{}", "--message", "text", "--payload", "null", "m:f",
    "x=1", "x=", "=", "{", "\x1b[31m", "a\nb", "é", "uwsgi_spoolfile_on_x", "9" * 400, "nan", "--help", "-h",
]  # fmt: skip


def command_line(data: bytes) -> None:
    """Check a command line: words separated by zero bytes. A word of a single byte stands for a known word.

    Whatever the words are, the command ends with a documented status, and with one line that says why if that is not 0.
    """
    words = [_word(part) for part in data.split(b"\0")[:9]]
    if _reaches_out(words):
        return
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), _no_input():
        status = main(words)
    said = err.getvalue()
    assert status in (0, 1, 2, 3, 130), status
    assert "Traceback" not in said
    assert "doctor" in words or status in (0, 130) or "unspool: error: " in said or "Commands:" in said, said
    for line in said.splitlines():
        assert not line.startswith("unspool: error:") or output.clean(line) == line, line


def _word(part: bytes) -> str:
    if len(part) == 1 and part[0] < len(_WORDS):
        return _WORDS[part[0]]
    return part.decode("utf-8", "surrogateescape")


def _reaches_out(words: list[str]) -> bool:
    """Return whether the words would start workers, import programs, or name places outside of the fuzzer's
    directory.
    """
    if {"run", "uwsgi", "--app"} & set(words) or any(word.startswith("--app") for word in words):
        return True
    if "doctor" in words and any(word != "doctor" and not word.startswith("-") for word in words):
        return True
    return any(("/" in word or "~" in word or ".." in word) and word not in _WORDS for word in words)


def start(place: str) -> None:
    """Change to a directory of the fuzzer, which contains the spoolers."""
    os.chdir(place)
    with open("file", "w", encoding="ascii"):
        pass
    settings.configure(spoolers=[os.path.join(place, "mail")], durability="relaxed")
    backend = SpoolBackend(os.path.join(place, "files"), durable=False, clock=lambda: _FUTURE)
    backend.send([])
    _opened[place] = backend


_opened: dict[str, SpoolBackend] = {}


@contextlib.contextmanager
def _no_input() -> Any:
    former, sys.stdin = sys.stdin, io.StringIO()
    try:
        yield
    finally:
        sys.stdin = former


_MESSAGES = [
    Message("ucfg_fcall", {"func": "f", "arg": (1,), "kwg": {"a": None}}, "shop:f", 3, 5.5),
    Message("cleanup", {"days": 30}, serializer="json"),
    Message("x" * 70_000),
]
SEEDS: dict[str, list[bytes]] = {
    "spool_file": [
        b"r" + wire.dump(envelope.vars, envelope.body, signer)
        for envelope in map(codec.encode, _MESSAGES)
        for signer in (None, SIGNER)
    ]
    + [
        b"c\x0c\x00\x03\x00msg\x05\x00hello{}",
        b"s\x25\x00\x0d\x00ud_spool_func\x01\x00f\x04\x00args\x02\x00).\x06\x00kwargs\x02\x00}.",
        b"r\x11\x08\x00\x00\x03\x00msg\x01\x00x",
    ],
    "command_line": [
        bytes([0, 0, 20]),
        bytes([10, 0, 49, 0, 50]),
        b"\x09\x000.5",
        b"\x0a\x00m:f\x00[1]\x00x=2\x00\x25\x005m",
        b"\x01\x00uwsgi_spoolfile_on_x\x00\x14",
        b"\x05\x00\x0c\x00\x0d\x00\x1a",
    ],
}
TARGETS = {"spool_file": spool_file, "command_line": command_line}
