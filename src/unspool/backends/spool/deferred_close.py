"""Files that were removed, on their way from a worker to its supervisor, which closes them.

The kernel frees a removed file when it is closed for the last time, which takes it 25 µs: a third of what a worker
spends on a task that does nothing. A descriptor that another process has too is closed in less than one. So a worker
passes on what it is done with, many in one message, and whoever is slower than the other one closes more of them: where
the socket is full, or nobody is there to read from it, the worker closes its files itself.

A descriptor that is kept here is still locked, which means nothing: its file has no name any more.
"""

import array
import contextlib
import os
import sys
import threading

from ...imports import late

__all__ = ["DeferredClose"]

_BATCH = 64  # the kernel takes 253 in one message
_SHARE = 16  # and no more than one in so many of the descriptors that a process may have: the others are its tasks'


class DeferredClose:
    """The way. Made by the supervisor before it forks; on other systems than Linux each closes its own."""

    def __init__(self) -> None:
        with late:
            import socket  # not for producers

        self._socket = socket
        self._maker = os.getpid()
        self._lock = threading.Lock()  # a worker settles in two threads
        self._kept: list[tuple[int, int]] = []
        self._batch = 0
        self._ends: tuple[socket.socket, socket.socket] | None = None
        if sys.platform == "linux":
            with contextlib.suppress(OSError):  # too many open files
                self._ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for end in self._ends or ():
            end.setblocking(False)

    def add(self, fd: int, inode: int) -> None:
        """In a worker: takes over the descriptor of a file that it has removed."""
        if not self._batch:
            self._batch = _batch()
        with self._lock:
            self._kept.append((fd, inode))
            enough = len(self._kept) >= self._batch
        if enough:
            self.pass_on()

    def pass_on(self) -> bool:
        """In a worker: has no descriptor any more when it returns. False if there was none."""
        with self._lock:
            kept, self._kept = self._kept, []
        fds = [fd for fd, inode in kept if _is_still(fd, inode)]
        if self._ends is not None and len(fds) == self._batch:
            rights = array.array("i", fds)
            with contextlib.suppress(OSError):  # the socket is full, or has no reader
                self._ends[0].sendmsg([b"."], [(self._socket.SOL_SOCKET, self._socket.SCM_RIGHTS, rights)])
        for fd in fds:
            os.close(fd)
        return bool(fds)

    def close_some(self) -> bool:
        """In the supervisor: closes what one message brought; False if there was none."""
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

    def close_inherited(self) -> None:
        """In a forked child: what its parent keeps is the parent's to pass on."""
        self._lock = threading.Lock()
        for fd, _ in self._kept:
            with contextlib.suppress(OSError):
                os.close(fd)
        self._kept.clear()

    def close(self) -> None:
        """In the supervisor, at its end; in a child, which goes on sending, what the supervisor alone needs."""
        if self._ends is not None:
            self._ends[1].close()
            if os.getpid() == self._maker:
                self._ends[0].close()
                self._ends = None


def _batch() -> int:
    with late:
        import resource

    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _BATCH if limit == resource.RLIM_INFINITY else max(min(_BATCH, limit // _SHARE), 1)


def _is_still(fd: int, inode: int) -> bool:
    """Return whether this is what it was: a task may have closed descriptors that are not its own, and opened
    others."""
    try:
        return os.fstat(fd).st_ino == inode
    except OSError:
        return False
