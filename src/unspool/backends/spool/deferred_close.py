"""Descriptors of removed files, which a worker passes to its supervisor to be closed there.

The kernel frees a removed file when its last descriptor is closed. That takes 25 µs, a third of what a worker spends on
a task that does nothing. Closing a descriptor that another process also has takes less than 1 µs. A worker therefore
passes its descriptors on, many in one message, and the slower of the two processes closes more of them. If the socket
is full or has no reader, the worker closes the files itself.

A descriptor kept here is still locked. The lock has no effect, because the file has no name any more.
"""

import array
import contextlib
import os
import sys
import threading

from ... import forks
from ...imports import late
from . import descriptor

__all__ = ["DeferredClose"]

_BATCH = 64  # the kernel allows 253 in one message
_SHARE = 16  # at most this fraction of the descriptors that a process may have; tasks need the others


class DeferredClose:
    """Pass descriptors from workers to the supervisor, which creates this before it forks. Outside Linux, workers close
    them."""

    def __init__(self) -> None:
        with late:
            import socket  # producers do not need it

        self._socket = socket
        self._is_inherited = False
        self._lock = threading.Lock()  # a worker settles tasks in two threads
        self._kept: list[tuple[int, int]] = []
        self._batch = 0
        self._ends: tuple[socket.socket, socket.socket] | None = None
        if sys.platform == "linux":
            with contextlib.suppress(OSError):  # too many open files
                self._ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for end in self._ends or ():
            end.setblocking(False)
        forks.register(after_in_child=self._close_inherited)

    def add(self, fd: int, inode: int) -> None:
        """Take over the descriptor of a removed file. Called in a worker."""
        if not self._batch:
            self._batch = _batch()
        with self._lock:
            self._kept.append((fd, inode))
            enough = len(self._kept) >= self._batch
        if enough:
            self.pass_on()

    def pass_on(self) -> bool:
        """Pass on or close all kept descriptors. Return False if there were none. Called in a worker."""
        with self._lock:
            kept, self._kept = self._kept, []
        fds = [fd for fd, inode in kept if descriptor.status(fd, inode) is not None]
        if self._ends is not None and len(fds) == self._batch:
            rights = array.array("i", fds)
            with contextlib.suppress(OSError):  # the socket is full, or has no reader
                self._ends[0].sendmsg([b"."], [(self._socket.SOL_SOCKET, self._socket.SCM_RIGHTS, rights)])
        for fd in fds:
            os.close(fd)
        return bool(fds)

    def close_some(self) -> bool:
        """Close the descriptors of one message. Return False if there was no message. Called in the supervisor."""
        if self._ends is None:
            return False
        fds = array.array("i")
        try:
            said, rights, _, _ = self._ends[1].recvmsg(1, self._socket.CMSG_SPACE(_BATCH * fds.itemsize))
        except OSError:
            return False
        for _, _, data in rights:
            fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
        for fd in fds:
            os.close(fd)
        return bool(said)

    def _close_inherited(self) -> None:
        """Close the descriptors that the parent passes on."""
        self._is_inherited = True
        self._lock = threading.Lock()
        for fd, _ in self._kept:
            with contextlib.suppress(OSError):
                os.close(fd)
        self._kept.clear()

    def close(self) -> None:
        """Close the socket. A child closes only the supervisor's end and can still send."""
        if self._ends is not None:
            self._ends[1].close()
            if not self._is_inherited:
                self._ends[0].close()
                self._ends = None


def _batch() -> int:
    with late:
        import resource

    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _BATCH if limit == resource.RLIM_INFINITY else max(min(_BATCH, limit // _SHARE), 1)
