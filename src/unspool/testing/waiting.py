"""Waiting for a descriptor. ``select`` accepts no number above 1023, and a run of many tests uses more."""

import select

__all__ = ["readable"]


def readable(fd: int | None, seconds: float) -> bool:
    """Return whether a descriptor becomes readable, or its other end is closed, within some seconds; False for None."""
    poller = select.poll()
    if fd is not None:
        poller.register(fd, select.POLLIN)
    return bool(poller.poll(seconds * 1000))
