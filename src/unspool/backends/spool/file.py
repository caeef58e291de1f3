"""Files of a spool directory: opened without blocking, written completely, read with a limit, synced together."""

import errno
import os

from ...errors import Damaged
from ...imports import late
from ...wire import HEADER_SIZE, MAX_VARS
from .directory import Directory

__all__ = ["open_private", "read_whole", "sync_file_system", "write_whole"]

_FIRST_READ = 1 << 17  # all of most tasks; enough of a larger file to recognize a task
_OVERHEAD = HEADER_SIZE + MAX_VARS
_MODIFIER = b"\x11"
_PRIVATE = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def read_whole(fd: int, size: int, limit: int) -> bytes:
    """Return the content of a task's file.

    :param size: the size that ``stat`` reports. No more memory is used than for that many bytes.
    :param limit: the maximum size of the task's body, in bytes.
    :raises Damaged: if the file is too large or cannot be a task, before much memory is allocated for it; or if another
        program is writing to it.
    """
    if size > limit + _OVERHEAD:
        raise Damaged(
            f"{size} bytes, and max_task_size allows {limit}; raise UNSPOOL_MAX_TASK_SIZE, then retry the task"
        )
    data = os.read(fd, min(size, _FIRST_READ) + 1)  # one byte more, to notice a file that has grown
    if data[:1] != _MODIFIER and data:
        raise Damaged("not a spool file: it does not begin with uWSGI's modifier 17")
    if size > _FIRST_READ:
        data = os.pread(fd, size + 1, 0)
        while len(data) < size and (more := os.pread(fd, size + 1 - len(data), len(data))):
            data += more
    if len(data) > size:
        raise Damaged(f"another program is writing to it: it has grown beyond {size} bytes while it was read")
    return data


def open_private(directory: Directory, inside: str, flags: int = os.O_RDONLY) -> int:
    """Open a file that unspool keeps in ``.unspool``, without blocking on a FIFO and without following a link.

    :param inside: its path in the directory.
    :raises OSError: if it cannot be opened, is not a regular file, or has an owner that is not trusted.
    """
    path = directory.path(inside)
    fd = os.open(path, flags | _PRIVATE, 0o600)
    if (reason := directory.objection(os.fstat(fd))) is not None:
        os.close(fd)
        raise OSError(errno.EINVAL, reason, path)
    return directory.hand_over(fd) if flags & os.O_CREAT else fd


def write_whole(fd: int, data: bytes) -> None:
    """Write all of ``data``. On a disk that fills up, the first write is short and the next one raises."""
    written = os.write(fd, data)
    while written < len(data):
        written += os.write(fd, data[written:])


def sync_file_system(fd: int) -> None:
    """Sync the whole file system once: 150 µs per task in batches of 100, where one fsync costs 1 to 2 ms.

    It reports write errors of the file system since Linux 5.8 (syncfs(2)).
    """
    with late:
        import ctypes  # takes 10 ms, which only a durable batch needs

    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "syncfs"):
        os.sync()
    elif libc.syncfs(fd) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
