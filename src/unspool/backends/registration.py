"""The entry of a live process: its pid, the ref of the task that it runs, and since when, in shared memory.

The process itself writes the entry. Its supervisor reads it, also after the process was killed. If the memory is a
mapped file, ``unspool status`` reads the file. Such a file, and memory that a task has overwritten, can hold any bytes.
"""

import math
import mmap
import struct

from .. import forks
from .base import REF_SIZE, WorkerInfo

__all__ = ["SIZE", "Registration", "parse"]

SIZE = 4096
"""The size of the memory in bytes. Files of this size are shared with other versions of unspool."""

_header = struct.Struct("<qdH")  # pid, since, size of the ref, which follows
_pack = _header.pack_into
_REF = _header.size
_END = _REF + REF_SIZE
_ROLES = ("supervisor", "worker", "forwarder")
_LAST_PID = (1 << 31) - 1


class Registration:
    """The entry of one process, which ``Backend.register`` returns.

    A supervisor makes the entry of a worker before it forks the worker, and calls ``detach`` afterwards. A backend
    whose entries need more than memory overrides ``detach`` and ``close``.

    :param role: ``supervisor``, ``worker`` or ``forwarder``.
    :param memory: ``SIZE`` bytes that the readers share. By default, only this process and its children share them.
    """

    def __init__(self, role: str, memory: mmap.mmap | None = None) -> None:
        self._role = role
        self._memory = mmap.mmap(-1, SIZE) if memory is None else memory
        _pack(self._memory, 0, forks.pid, 0.0, 0)

    def running(self, ref: str, since: float) -> None:
        """Note that this process runs the task of ``ref``; an empty ref for none. This costs no system call.

        :raises ValueError: if the ref is longer than ``REF_SIZE`` bytes.
        """
        size = 0
        if ref:
            name = ref.encode("utf-8", "surrogateescape")
            size = len(name)
            if size > REF_SIZE:
                raise ValueError(f"the ref has {size} bytes; at most {REF_SIZE} are allowed: {ref!r}")
            self._memory[_REF : _REF + size] = name  # before its size, in case the process is killed here
        _pack(self._memory, 0, forks.pid, since, size)

    def detach(self) -> None:
        """Leave the entry to the child. A parent calls this after a fork, and can still read the entry."""

    def close(self) -> None:
        """Remove the entry. It must also disappear when its process is killed."""
        self.clear()

    def clear(self) -> None:
        """Note that there is no process."""
        _pack(self._memory, 0, 0, 0.0, 0)

    def read(self) -> WorkerInfo | None:
        """Return the entry; None if it was cleared or is invalid."""
        return parse(self._role, self._memory[:_END])

    def ref(self) -> str:
        """Return the ref that was noted last; an empty string if there is none."""
        info = self.read()
        return info.ref if info else ""

    def since(self) -> float:
        """Return the time that was noted with the ref; 0 if there is none."""
        info = self.read()
        return info.since if info else 0.0


def parse(role: str, data: bytes) -> WorkerInfo | None:
    """Return the entry in the bytes of an entry; None if the role or the bytes are invalid."""
    if role not in _ROLES or len(data) < _REF:
        return None
    pid, since, size = _header.unpack_from(data)
    if not (0 < pid <= _LAST_PID and 0 <= since < math.inf and size <= min(REF_SIZE, len(data) - _REF)):
        return None
    return WorkerInfo(role, pid, data[_REF : _REF + size].decode("utf-8", "surrogateescape"), since)
