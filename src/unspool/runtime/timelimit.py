"""The time limit of a run, which interrupts Python code."""

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType

from ..errors import TaskTimeout

__all__ = ["KILL_AFTER", "limit"]

KILL_AFTER = 2.0
"""Seconds after its time limit when a run that cannot be interrupted is killed."""


@contextlib.contextmanager
def limit(timeout: float | None) -> Iterator[None]:
    """Raise ``TaskTimeout`` in the body after ``timeout`` seconds, by SIGALRM. This works only in the main thread.

    A call that does not return to Python cannot be interrupted. Another process must kill this one.
    """
    if timeout is None:
        yield
        return
    former = signal.signal(signal.SIGALRM, _overrun)
    signal.setitimer(signal.ITIMER_REAL, timeout)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, former or signal.SIG_DFL)


def _overrun(_signal: int, _frame: FrameType | None) -> None:
    raise TaskTimeout("it ran longer than its time limit")
