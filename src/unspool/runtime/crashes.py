"""The log lines and records for a worker that died."""

import logging
import signal
from collections.abc import Iterable, Iterator, Sequence

from ..backends.base import Clock
from ..errors import SpoolerUnusable
from .events import Ended, Run
from .pool import Death
from .served import Served

__all__ = ["crashes"]

_log = logging.getLogger("unspool")


def crashes(
    death: Death, runs: Iterable[Run], spoolers: Sequence[Served], clock: Clock, *, forced: bool
) -> Iterator[Ended]:
    """Yield the ends of the runs that a worker's death has interrupted. Log the death itself if there are none.

    :param runs: the tasks that the worker was running.
    :param forced: whether the supervisor has killed its workers in a forced stop.
    """
    process = death.process
    how = process.end_of(death.code)
    how = "was killed by a forced stop" if forced and death.code == -signal.SIGKILL else how
    if not runs:
        doing = "; it was running no task" if process.ready else " while it imported the application"
        again = f"; trying again in {death.pause:.1f} s" if death.pause else ""
        _log.error("worker %d %s%s%s", process.pid, how, doing, again)
    for index, ref in sorted(runs):
        try:
            crash = spoolers[index].note_crash(index, ref, process, how, clock())
        except SpoolerUnusable as error:
            _log.error(
                "worker %d %s while it ran %s, about which the spooler cannot be asked: %s",
                process.pid,
                how,
                ref,
                error,
            )
            continue
        if crash is not None:
            record, until = crash
            yield Ended(index, ref, until, record)
