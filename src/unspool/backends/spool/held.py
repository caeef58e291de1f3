"""Files that uWSGI has locked in this process, and that therefore must not be opened here.

uWSGI's locks are POSIX locks: closing *any* descriptor of such a file drops them, and the task would run twice. So who
wants to look into one is given what uWSGI has read. By inode, for a process may know one directory by several paths.
"""

import contextlib
import os
from collections.abc import Iterator

from ...message import Envelope

__all__ = ["held", "holding"]

_held: dict[tuple[int, int], Envelope] = {}


@contextlib.contextmanager
def holding(path: str, envelope: Envelope) -> Iterator[None]:
    """Keeps everybody in this process from opening the file meanwhile."""
    try:
        found = os.stat(path, follow_symlinks=False)
    except OSError:  # it is gone, and so nobody can open it
        yield
        return
    key = (found.st_dev, found.st_ino)
    _held[key] = envelope
    try:
        yield
    finally:
        _held.pop(key, None)


def held(path: str) -> Envelope | None:
    """What uWSGI has read from the file, if it must not be opened."""
    if not _held:
        return None
    try:
        found = os.stat(path, follow_symlinks=False)
    except OSError:
        return None
    return _held.get((found.st_dev, found.st_ino))
