"""Deferred tasks that the server has not let out at their time.

The server lets a deferred task out by a publication of its own. If that fails, as when the storage is full, the server
does not try again before it is restarted or another server leads the stream. So supervisors read a few of the deferred
tasks now and then, and all of them once a full storage has room again, and let out those that are overdue.

The server does not look whether somebody else has let a task out, so both could do so, and a fast worker could run the
task twice. A server that lets out thousands at one time, or that was started just now, may be some seconds late. So a
task is overdue a lease after its time, by the server's clock, and nothing is let out within a lease of a connection's
renewal.
"""

import asyncio
import contextlib
import logging
import math
from collections.abc import Sequence
from datetime import datetime

from ...errors import SpoolerUnusable
from ...printable import counted
from .jetstream import ApiError, JetStream, client_errors
from .names import LATER
from .place import Place
from .stored import Stored
from .tasks import Tasks

__all__ = ["Overdue"]

_log = logging.getLogger("unspool")
_INTERVAL = 10.0  # seconds between two looks at one page of the deferred tasks
_PAGES = 16  # read at a full look


class Overdue:
    """Finds the overdue tasks of a place. Its methods run in the loop."""

    def __init__(self, place: Place, tasks: Tasks) -> None:
        self._place = place
        self._tasks = tasks
        self._next = 1
        self._rest = 0.0  # nothing is let out before this time of the loop
        self._whole = math.inf  # when all deferred tasks are read

    def renewed(self) -> None:
        """The connection broke, or is back."""
        self._rest = asyncio.get_running_loop().time() + self._place.lease

    async def run(self, stream: JetStream) -> None:
        """Looks again and again."""
        while True:
            await asyncio.sleep(min(_INTERVAL, self._place.lease / 3))
            with contextlib.suppress(SpoolerUnusable, client_errors()):
                await self.look(stream, 1)

    async def look(self, stream: JetStream, pages: int = _PAGES) -> None:
        """Restores what a full storage takes away: the reserve, and the tasks that the server could not let out.

        :param pages: how many pages of deferred tasks are read, from where the last look ended. All are read once, a
            lease after the storage was found to have room again.
        """
        now, lease = asyncio.get_running_loop().time(), self._place.lease
        if await self._place.reserve.keep(stream):
            self._whole = min(self._whole, now + lease)
        names, patience, number = self._place.names, self._place.patience, 0
        subject = names.task(LATER, "*", "*")
        info = await stream.info(names.tasks, count=subject, patience=patience)
        if now < self._rest or info is None or not info.get("total"):
            return
        if now >= self._whole:
            self._next, self._whole, pages = 1, math.inf, 1 << 32
        latest = datetime.fromisoformat(info["ts"]).timestamp() - lease
        while pages > 0:
            page = await stream.page(names.tasks, subject, self._next, patience=patience)
            number += await self._let_out(stream, [stored for stored in page if stored.facts.due <= latest])
            self._next = page[-1].seq + 1 if page else 1
            pages = pages - 1 if page else 0
        if number:
            _log.warning("%s kept %s back beyond their time; they may run now", stream.shown, counted(number, "task"))

    async def _let_out(self, stream: JetStream, overdue: Sequence[Stored]) -> int:
        """Lets out as many of these as there is room for; their number."""
        number = 0
        for stored in overdue:
            try:
                number += await self._tasks.let_out(stream, stored)
            except ApiError as error:
                if error.is_full:  # the reserve has told so
                    break
                _log.warning("the overdue task %s cannot be let out: %s", stored.subject, error)
        return number
