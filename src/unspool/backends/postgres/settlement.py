"""The ends of runs as parameters of the statements that settle them."""

from collections.abc import Sequence
from typing import NamedTuple

from ...message import Ack, Bury, End, Record, Release, Retry
from .arrays import array, texts
from .history import History, storable

__all__ = ["Return", "acknowledge", "return_of", "return_tasks"]


class Return(NamedTuple):
    """A run that has ended, of a task that stays. The counts are added to those of the task."""

    number: int
    fence: int
    delay: float | None = None
    """Seconds until the next run; None to keep the due time."""
    aside: int | None = None
    """The state of a dead letter; None for a task that runs again."""
    attempts: int = 0
    unhandled: int = 0
    crashes: int = 0
    reason: str = ""
    record: Record | None = None


def return_of(end: End, now: float) -> Return | None:
    """Return what an end does to a task that stays; None if the task leaves the queue.

    :param now: the time of this program's clock.
    """
    one = Return(int(end.claim.ref), end.claim.fence, record=end.record)
    match end.disposition:
        case Ack():
            return None
        case Retry(at, begun):
            unhandled = int(not begun)
            return one._replace(delay=at - now, attempts=-unhandled, unhandled=unhandled)
        case Release(crashed):
            return one._replace(attempts=-(not crashed), crashes=int(crashed))
        case Bury(reason, corrupt, begun):
            return one._replace(aside=3 if corrupt else 2, attempts=-(not begun), reason=storable(reason))


def acknowledge(ends: Sequence[End], history: History) -> list[bytes | None]:
    """Return the arrays of ``acknowledge.sql``."""
    return [
        array([int(end.claim.ref) for end in ends]),
        array([end.claim.fence for end in ends]),
        *history.arrays([end.record for end in ends]),
    ]


def return_tasks(returns: Sequence[Return], history: History) -> list[bytes | None]:
    """Return the arrays of ``return.sql``."""
    numbers, fences, delays, asides, attempts, unhandled, crashes, reasons, records = zip(*returns, strict=True)
    columns = (numbers, fences, delays, asides, attempts, unhandled, crashes)
    return [*map(array, columns), texts(reasons), *history.arrays(records)]
