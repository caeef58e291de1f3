"""The system calls alone that storing a task takes, from Python: the lower limit for a queue in a directory."""

import ctypes
import os
from time import monotonic_ns

from .filesystem import Ground

__all__ = ["enqueue"]

_WARM_UP = 20  # batches that are not timed
_SIZE = 300  # bytes: about what a task with an argument or two takes
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def enqueue(ground: Ground, tasks: int, batch: int = 1, *, durable: bool) -> float:
    """Return the number of files per second that are created, written, closed and renamed into place.

    Durable ones are synced together with their directory, a batch by one ``syncfs``. Others outside of a batch are
    written in place and given their mode.
    """
    with ground.place() as place:
        (place.spool / "tmp").mkdir()
        syncfs = ctypes.CDLL(None, use_errno=True).syncfs if durable and batch > 1 else None
        body = os.urandom(_SIZE)
        at = os.open(place.spool, os.O_RDONLY | os.O_DIRECTORY)
        tmp = os.open("tmp", os.O_RDONLY | os.O_DIRECTORY, dir_fd=at)
        in_place = batch == 1 and not durable
        try:
            begun = 0
            for start in range(-batch * _WARM_UP, tasks, batch):
                begun = begun if start else monotonic_ns()
                names = [f"file_{number}" for number in range(start, min(start + batch, tasks))]
                for name in names:
                    fd = os.open(name, _CREATE, 0o1000 if in_place else 0o600, dir_fd=at if in_place else tmp)
                    os.write(fd, body)
                    if in_place:
                        os.fchmod(fd, 0o600)
                    if durable and batch == 1:
                        os.fsync(fd)
                    os.close(fd)
                if syncfs is not None and syncfs(tmp) != 0:
                    raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
                for name in [] if in_place else names:
                    os.rename(name, name, src_dir_fd=tmp, dst_dir_fd=at)
                if durable:
                    os.fsync(at)
            return tasks / (monotonic_ns() - begun) * 1e9
        finally:
            os.close(tmp)
            os.close(at)
