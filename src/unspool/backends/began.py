"""The start time of a process, which distinguishes it from an earlier process with the same id."""

import os

__all__ = ["began"]


def began(pid: int) -> str:
    """Return the start time as the kernel formats it; an empty string if the process has ended. Without /proc, return
    ``0``.
    """
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
        return "" if fields[0] in (b"Z", b"X") else fields[19].decode()  # a zombie runs nothing
    except (OSError, IndexError):
        return "0" if not os.path.isdir("/proc/self") else ""
