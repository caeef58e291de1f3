"""The identity of a process, unique across machines. Registrations contain it."""

import functools
import os
import socket
from pathlib import Path

from ..began import began

__all__ = ["HOST", "host_of", "is_gone", "lives", "me"]

HOST = socket.gethostname()


def me() -> str:
    """Return the identity of this process without its pid: its host, the scope of its pid, and its start time."""
    return f"{_space()} {began(os.getpid())}"


def host_of(process: str) -> str:
    """Return the host name of a process."""
    return process.partition(" ")[0]


def lives(process: str | None, pid: int | None) -> bool:
    """Return whether a process of this machine is alive."""
    space, _, since = (process or "").rpartition(" ")
    return space == _space() and pid is not None and began(pid) == since


def is_gone(process: str, pid: int) -> bool:
    """Return whether a process of this machine has ended."""
    return process.rpartition(" ")[0] == _space() and not lives(process, pid)


@functools.cache
def _space() -> str:
    """Return the scope of a pid: an identifier of this boot of the machine and of the pid namespace."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{HOST} {boot} {Path('/proc/self/ns/pid').stat().st_ino}"
    except OSError:  # not Linux: no other process can find this one by its pid
        return f"{HOST} {os.urandom(8).hex()}"
