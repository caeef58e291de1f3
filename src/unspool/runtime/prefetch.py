"""Tickets that a worker takes and claims several at a time, where a claim costs a round trip to a server."""

import contextlib
import time
from collections.abc import Sequence

from ..backends.base import Backend, ClaimsAhead, Ticket
from ..errors import SpoolerUnusable
from .queue import Queue

__all__ = ["Prefetch"]

_MOST = 32  # the most tasks that are claimed at once
_SOON = 0.01  # seconds within which these should be begun


class Prefetch:
    """Claims as many tasks at once as should begin within a moment.

    Their number is estimated from the last runs. The supervisor takes back those that would wait.

    :param queue: the tickets of all workers.
    :param ahead: receives the tickets that this worker has claimed and not begun.
    """

    def __init__(self, queue: Queue, ahead: Queue, backends: Sequence[Backend]) -> None:
        self._queue = queue
        self._ahead = ahead
        self._backends = backends
        self._at_once = 1
        self._claimed = 0.0  # when the last were claimed
        self._claimed_by: list[ClaimsAhead] = []  # the backends that may have claims which are not begun

    def get(self, *, singly: bool) -> tuple[int, Ticket] | None:
        """Return the next task of those claimed ahead, or of the queue if there are none; None if the queue is closed.

        :param singly: claim only one, because runs do not end in order now.
        :raises BlockingIOError: if there is no ticket.
        """
        with contextlib.suppress(BlockingIOError):
            return self._ahead.get()
        for backend in self._claimed_by:
            backend.forget()
        self._claimed_by.clear()
        self._adapt(singly=singly)
        try:
            items = self._queue.get_some(self._at_once)
        except BlockingIOError:
            self._at_once = 1
            raise
        self._claimed = time.monotonic()
        if len(items) < 2:
            return items[0] if items else None
        self._ahead.put(self._claim(items))
        self._claimed = time.monotonic()
        return self.get(singly=singly)

    def _adapt(self, *, singly: bool) -> None:
        lasted = time.monotonic() - self._claimed
        if singly:
            self._at_once = 1
        elif lasted < _SOON:
            self._at_once = min(2 * self._at_once, _MOST)
        else:
            self._at_once = max(int(self._at_once * _SOON / lasted), 1)

    def _claim(self, items: list[tuple[int, Ticket]]) -> list[tuple[int, Ticket]]:
        for index, backend in enumerate(self._backends):
            refs = [ticket.ref for of, ticket in items if of == index]
            if len(refs) > 1 and isinstance(backend, ClaimsAhead):
                self._claimed_by.append(backend)
                with contextlib.suppress(SpoolerUnusable):  # ``claim`` meets it, too
                    tokens = backend.claim_ahead(refs)
                    items = [
                        (of, Ticket(rank, due, ref, tokens.get(ref, 0) if of == index else token))
                        for of, (rank, due, ref, token) in items
                    ]
        return items
