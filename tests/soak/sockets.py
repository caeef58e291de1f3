"""Find the process of this machine that owns a connection."""

import contextlib
import os
from pathlib import Path

__all__ = ["owner"]


def owner(port: int) -> int | None:
    """Return the process that has the socket of this local port on loopback; None if it has been closed."""
    inode = next(
        (
            fields[9]
            for fields in map(str.split, Path("/proc/net/tcp").read_text().splitlines()[1:])
            if int(fields[1].rpartition(":")[2], 16) == port
        ),
        None,
    )
    for entry in os.scandir("/proc") if inode is not None else ():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                for fd in os.scandir(f"{entry.path}/fd"):
                    with contextlib.suppress(OSError):
                        if os.readlink(fd.path) == f"socket:[{inode}]":
                            return int(entry.name)
    return None
