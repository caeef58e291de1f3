"""Waiting for a descriptor. ``select`` takes no number above 1023, and a run of many tests holds more."""

import select

__all__ = ["readable"]


def readable(fd: int | None, seconds: float) -> bool:
    """Return whether it becomes readable, or its other end is closed, within so many seconds; None never does."""
    poller = select.poll()
    if fd is not None:
        poller.register(fd, select.POLLIN)
    return bool(poller.poll(seconds * 1000))
