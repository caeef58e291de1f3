"""The records that tasks make of their runs, in memory-mapped files: the same code and clock for all systems.

CLOCK_MONOTONIC is one clock for all processes of a machine, so a task can subtract the time of its call.
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
    """The records of all workers together. Times are in nanoseconds."""

    runs: int
    first: int
    last: int

    @property
    def rate(self) -> float:
        """Return runs per second, from the start of the first to that of the last."""
        return (self.runs - 1) / (self.last - self.first) * 1e9


class _Map:
    """A file in memory, which each process opens when it first needs it, because forked processes must not share its
    numbers.
    """

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
    """Record one more run, in a task."""
    global _own  # noqa: PLW0603  one file a process
    if _own is None or _own.pid != os.getpid():
        _own = _Map(f"tally.{os.getpid()}")
    now = monotonic_ns()
    own = _own
    own.runs += 1
    own.first = own.first or now
    _tally.pack_into(own.view, 0, own.runs, own.first, now)


def stamp(index: int, called: int) -> None:
    """Record the time since the call in nanoseconds, in a task."""
    now = monotonic_ns()
    _latency.pack_into(_latency_map().view, index * _latency.size, max(now - called, 1))


def seen(index: int) -> int:
    """Return the latency that the task ``index`` has recorded, in nanoseconds; 0 if it has not begun. For the
    caller.
    """
    return int(_latency.unpack_from(_latency_map().view, index * _latency.size)[0])


def prepare(directory: str, calls: int = 0) -> None:
    """Create the files, and with ``calls`` room for this number of latencies."""
    with open(os.path.join(directory, _LATENCIES), "wb") as file:
        file.write(bytes(max(calls, 3) * _latency.size))


def tally(directory: str) -> Tally:
    """Return the records so far."""
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
    """Return the recorded latencies, in nanoseconds."""
    with open(os.path.join(directory, _LATENCIES), "rb") as file:
        return [nanoseconds for (nanoseconds,) in _latency.iter_unpack(file.read()) if nanoseconds]


def _latency_map() -> _Map:
    global _shared  # noqa: PLW0603  one map a process
    if _shared is None:
        _shared = _Map(_LATENCIES)
    return _shared
