"""Deferred tasks that the server has not released on time.

The server releases a deferred task by publishing it. If that fails, for example because the storage is full, the server
tries again only after a restart or a change of leader. Supervisors therefore read a few of the deferred tasks
regularly, and all of them once a full storage has room again. They release the overdue tasks.

The server does not check whether a supervisor has released a task, so both could release it, and a fast worker could
run the task twice. A server that releases thousands of tasks at one time, or that has just started, may be some seconds
late. A task therefore counts as overdue one lease after its time, by the server's clock. No task is released within one
lease after a reconnection.
"""

import logging
import math
import time
from collections.abc import Iterator, Sequence
from datetime import datetime

from ...printable import counted
from .cluster import Cluster
from .jetstream import JetStream
from .names import LATER
from .requests import ApiError
from .stored import Stored
from .tasks import Tasks

__all__ = ["Overdue"]

_log = logging.getLogger("unspool")
_INTERVAL = 10.0  # seconds between two readings of one page of the deferred tasks
_PAGES = 16  # pages read by a full look


class Overdue:
    """Find and release the overdue tasks of a spooler."""

    def __init__(self, place: Cluster, tasks: Tasks) -> None:
        self._place = place
        self._tasks = tasks
        self._next = 1
        self._rest = 0.0  # no task is released before this time
        self._whole = math.inf  # the time at which all deferred tasks are read

    def renewed(self) -> None:
        """Note that the connection broke or was restored."""
        self._rest = time.monotonic() + self._place.lease

    @property
    def interval(self) -> float:
        """Return the seconds between two calls of ``look`` for one page."""
        return min(_INTERVAL, self._place.lease / 3)

    def look(self, stream: JetStream, pages: int = _PAGES) -> Iterator[None]:
        """Restore what is missing after a full storage: the reserve, and the tasks that the server could not release.
        The caller may do other work between the steps.

        :param pages: the number of pages of deferred tasks to read, starting where the last look ended. All are read
            once, one lease after the storage has room again.
        """
        now, lease = time.monotonic(), self._place.lease
        if self._place.reserve.keep(stream):
            self._whole = min(self._whole, now + lease)
        names, number = self._place.names, 0
        subject = names.task(LATER, "*", "*")
        info = stream.info(names.tasks, count=subject)
        if now < self._rest or info is None or not info.get("total"):
            return
        if whole := now >= self._whole:
            self._next, pages = 1, 1 << 32
        latest = datetime.fromisoformat(info["ts"]).timestamp() - lease
        while pages > 0:
            yield
            page = stream.page(names.tasks, subject, self._next)
            number += self._let_out(stream, [stored for stored in page if stored.facts.due <= latest])
            self._next = page[-1].seq + 1 if page else 1
            pages = pages - 1 if page else 0
        if whole:
            self._whole = math.inf
        if number:
            _log.warning("%s kept %s back beyond their time; they may run now", stream.shown, counted(number, "task"))

    def _let_out(self, stream: JetStream, overdue: Sequence[Stored]) -> int:
        """Release as many of these tasks as there is room for, and return their number."""
        number = 0
        for stored in overdue:
            try:
                number += self._tasks.let_out(stream, stored)
            except ApiError as error:
                if error.is_full:  # already logged by the reserve
                    break
                _log.warning("the overdue task %s cannot be let out: %s", stored.subject, error)
        return number
