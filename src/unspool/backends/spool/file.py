"""The bytes of a task's file: written whole, read with suspicion, synced together."""

import os

from ...errors import Damaged
from ...imports import late
from ...wire import MAX_SIZE

__all__ = ["read_whole", "sync_file_system", "write_whole"]

_FIRST_READ = 1 << 17  # all of most tasks; of a larger one enough to see whether it is one
_MODIFIER = b"\x11"


def read_whole(fd: int, size: int) -> bytes:
    """The content of a file that calls itself ``size`` bytes long.

    :raises Damaged: if it cannot be a task, before much is allocated for it.
    """
    if size > MAX_SIZE:
        raise Damaged(f"{size} bytes, more than any task may have ({MAX_SIZE})")
    data = os.read(fd, min(size, _FIRST_READ))
    if data[:1] not in (_MODIFIER, b""):
        raise Damaged("not a spool file: it does not begin with uWSGI's modifier 17")
    if size > _FIRST_READ:
        parts = [data]
        while parts[-1]:
            parts.append(os.read(fd, size))
        data = b"".join(parts)
    return data


def write_whole(fd: int, data: bytes) -> None:
    """Writes all of ``data``: a disk that fills up takes a part first, and raises for the rest."""
    written = os.write(fd, data)
    while written < len(data):
        written += os.write(fd, data[written:])


def sync_file_system(fd: int) -> None:
    """One sync for all that was written: 150 µs a task in batches of 100, where one fsync costs 1 to 2 ms.

    It reports write errors of the file system since Linux 5.8 (syncfs(2)).
    """
    with late:
        import ctypes  # 10 ms that only a durable batch needs

    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "syncfs"):
        os.sync()
    elif libc.syncfs(fd) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
