"""When a process of this machine began, which tells it from an earlier one with the same number."""

import os

__all__ = ["began"]


def began(pid: int) -> str:
    """The time, in a form of the kernel's; empty if the process is gone. Where there is no /proc, ``0`` for each."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
        return "" if fields[0] in (b"Z", b"X") else fields[19].decode()  # a zombie runs nothing
    except (OSError, IndexError):
        return "0" if not os.path.isdir("/proc/self") else ""
