"""What tasks witness of their own runs, in memory-mapped files: the same code and clock for both systems.

CLOCK_MONOTONIC is one clock for all processes of a machine, so a caller's reading can be taken from a task's.
"""

import mmap
import os
import struct
from time import monotonic_ns
from typing import NamedTuple

__all__ = ["DIRECTORY", "Tally", "latencies", "mark", "prepare", "seen", "stamp", "tally"]

DIRECTORY = "BENCH_WITNESS"
"""The environment variable that says where the files are."""

_tally = struct.Struct("=3q")  # runs, time of the first, time of the last
_latency = struct.Struct("=q")
_LATENCIES = "latencies"


class Tally(NamedTuple):
    """What all workers witnessed together; times in nanoseconds."""

    runs: int
    first: int
    last: int

    @property
    def rate(self) -> float:
        """Runs a second, from the start of the first to that of the last."""
        return (self.runs - 1) / (self.last - self.first) * 1e9


class _Map:
    """A file in memory, opened by each process when it first needs it: forks must not share the numbers kept here."""

    def __init__(self, name: str) -> None:
        path = os.path.join(os.environ[DIRECTORY], name)
        fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        if os.fstat(fd).st_size < _tally.size:
            os.write(fd, bytes(_tally.size))
        self.view = mmap.mmap(fd, 0)
        os.close(fd)
        self.pid = os.getpid()
        self.runs = self.first = 0


_own: _Map | None = None
_shared: _Map | None = None


def mark() -> None:
    """In a task: one more run."""
    global _own  # noqa: PLW0603  one file a process
    if _own is None or _own.pid != os.getpid():
        _own = _Map(f"tally.{os.getpid()}")
    now = monotonic_ns()
    own = _own
    own.runs += 1
    own.first = own.first or now
    _tally.pack_into(own.view, 0, own.runs, own.first, now)


def stamp(index: int, called: int) -> None:
    """In a task: how long ago it was called (nanoseconds of the clock)."""
    now = monotonic_ns()
    _latency.pack_into(_latency_map().view, index * _latency.size, max(now - called, 1))


def seen(index: int) -> int:
    """In the caller: the latency that the task ``index`` witnessed, in nanoseconds; 0 if it has not begun."""
    return int(_latency.unpack_from(_latency_map().view, index * _latency.size)[0])


def prepare(directory: str, calls: int = 0) -> None:
    """Makes the files: with ``calls``, room for so many latencies."""
    with open(os.path.join(directory, _LATENCIES), "wb") as file:
        file.write(bytes(max(calls, 3) * _latency.size))


def tally(directory: str) -> Tally:
    """What was witnessed so far."""
    found = []
    for name in os.listdir(directory):
        if name.startswith("tally."):
            with open(os.path.join(directory, name), "rb") as file:
                data = file.read()
            if len(data) == _tally.size and any(data):
                found.append(_tally.unpack(data))
    if not found:
        return Tally(0, 0, 0)
    runs, firsts, lasts = zip(*found, strict=True)
    return Tally(sum(runs), min(firsts), max(lasts))


def latencies(directory: str) -> list[int]:
    """The latencies that were witnessed, in nanoseconds."""
    with open(os.path.join(directory, _LATENCIES), "rb") as file:
        return [nanoseconds for (nanoseconds,) in _latency.iter_unpack(file.read()) if nanoseconds]


def _latency_map() -> _Map:
    global _shared  # noqa: PLW0603  one map a process
    if _shared is None:
        _shared = _Map(_LATENCIES)
    return _shared
