"""Which process of which machine a sign of life is of, as others can tell."""

import functools
import os
import socket
from pathlib import Path

from ..began import began

__all__ = ["HOST", "host_of", "is_gone", "lives", "me"]

HOST = socket.gethostname()


def me() -> str:
    """This process but for its number: its host, what its number is unique in there, and when it began."""
    return f"{_space()} {began(os.getpid())}"


def host_of(process: str) -> str:
    """The name of a process's host."""
    return process.partition(" ")[0]


def lives(process: str | None, pid: int | None) -> bool:
    """Whether a process is one of this machine's, and lives."""
    space, _, since = (process or "").rpartition(" ")
    return space == _space() and pid is not None and began(pid) == since


def is_gone(process: str, pid: int) -> bool:
    """Whether a process was one of this machine's, and has ended."""
    return process.rpartition(" ")[0] == _space() and not lives(process, pid)


@functools.cache
def _space() -> str:
    """One start of one machine, and a namespace of process numbers there."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{HOST} {boot} {Path('/proc/self/ns/pid').stat().st_ino}"
    except OSError:  # no Linux: no other process finds this one by its number
        return f"{HOST} {os.urandom(8).hex()}"
