"""The sweep of a spool directory, all at once. A supervisor does it in steps."""

import contextlib

from unspool.backends.spool.directory import Directory
from unspool.backends.spool.sweep import leftovers

__all__ = ["sweep"]


def sweep(spool: str) -> None:
    """Remove what dead processes have left, as another process does that has just opened the directory."""
    with contextlib.closing(Directory(spool)) as directory, contextlib.closing(leftovers(directory)) as steps:
        for _ in steps:
            pass
