"""Interrupting Python code that overruns its time limit."""

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType

from ..errors import TaskTimeout

__all__ = ["KILL_AFTER", "limit"]

KILL_AFTER = 2.0
"""Seconds after its time limit at which a run that cannot be interrupted is killed."""


@contextlib.contextmanager
def limit(timeout: float | None) -> Iterator[None]:
    """Raises ``TaskTimeout`` in the body after ``timeout`` seconds, by SIGALRM; in the main thread only.

    A call that does not come back to Python cannot be interrupted; who watches from outside must kill it.
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
