"""Reading the names in a spool directory, some at a time, so that the memory does not grow with their number.

No other module reads the tasks of a directory. A name contains a lower bound of the due time, so most readers need no
``stat``. An entry can be used until the next ones are read.
"""

import contextlib
import itertools
import os
from collections.abc import Iterable, Iterator

from .directory import Directory
from .layout import is_priority
from .names import BELL, PREFIX, is_bell

__all__ = ["Entry", "opened", "priorities", "read", "read_all", "tasks"]

Entry = os.DirEntry[str]

_BATCH = 2_000
_OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


def read(directory: Directory, part: str = "") -> Iterator[list[Entry]]:
    """Yield the entries of the root (an empty part) or of a directory in it. If it cannot be read, there are none."""
    # By descriptor, because this is faster than by path, also for ``stat``.
    with contextlib.suppress(OSError), opened(directory, part) as fd, os.scandir(fd) as entries:
        while batch := list(itertools.islice(entries, _BATCH)):
            yield batch


def read_all(directory: Directory, lead: str = "") -> Iterator[tuple[str, list[Entry]]]:
    """Yield the entries of the root, or of a directory in it, and then those of its priorities.

    Each batch comes with the name of its priority's directory, which is empty at first.
    """
    parts = [""]
    for part in parts:
        for entries in read(directory, "/".join(filter(None, (lead, part)))):
            if not part:
                parts += priorities(entries)
            yield part, entries


def tasks(entries: Iterable[Entry]) -> list[Entry]:
    """Return the entries with a task's name."""
    return [
        one
        for one in entries
        if (name := one.name).startswith(PREFIX) and not (name.startswith(BELL) and is_bell(name))
    ]


def priorities(entries: Iterable[Entry]) -> list[str]:
    """Return the names of the directories of priorities. Links to directories do not count."""
    return [
        one.name
        for one in entries
        if one.name < ":" and is_priority(one.name) and one.is_dir(follow_symlinks=False)  # a digit is less than ":"
    ]


@contextlib.contextmanager
def opened(directory: Directory, part: str) -> Iterator[int]:
    """Open the root (an empty part) or a directory in it, and yield its descriptor. No link in the root is followed.

    :raises OSError: if it cannot be opened.
    """
    fd = os.open(directory.root, _OPEN)
    try:
        for name in part.split("/") if part else ():
            deeper = os.open(name, _OPEN | os.O_NOFOLLOW, dir_fd=fd)
            os.close(fd)
            fd = deeper
        yield fd
    finally:
        os.close(fd)
