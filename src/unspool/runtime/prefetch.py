"""Tickets that a worker takes and claims several at a time, where a claim costs a round trip to a server.

The claimed tickets are in a pipe until the worker begins them. The supervisor reads the pipe too: it takes tickets back
if a run before them takes long or the worker has died, and releases their claims by their fences. Only one of the two
can read a ticket, so a ticket that was taken back is not begun.
"""

import contextlib
import time
from collections.abc import Sequence

from ..backends.base import Backend, Ticket
from ..errors import SpoolerUnusable
from ..message import Claim, Refusal
from .exchange import Exchange
from .queue import Queue

__all__ = ["Prefetch"]

_MOST = 32  # the most tasks that are claimed at once
_SOON = 0.01  # seconds within which all of them should be begun
_STALE = (
    1.0  # seconds after which a claim is made again, because its session may have ended while this process was stopped
)


class Prefetch:
    """Claims as many tasks at once as should begin within a hundredth of a second, estimated from the last runs.

    :param queue: the tickets of all workers.
    :param ahead: a pipe for the tickets that this worker has claimed and not begun.
    """

    def __init__(self, queue: Queue, ahead: Queue, backends: Sequence[Backend], exchange: Exchange) -> None:
        self._queue = queue
        self._ahead = ahead
        self._batches = [index for index, backend in enumerate(backends) if backend.capabilities.batches]
        self._exchange = exchange
        self._at_once = 1
        self._taken = 0.0  # when tickets were last claimed
        self._claims: dict[tuple[int, str], Claim | Refusal] = {}  # of the tickets in ``ahead``

    def get(self, *, singly: bool) -> tuple[int, Ticket] | None:
        """Return the next task of those claimed ahead, or of the queue if there are none; None if the queue is closed.

        :param singly: True to claim only one, as while coroutines run, because these do not end in order.
        :raises BlockingIOError: if there is no ticket.
        """
        with contextlib.suppress(BlockingIOError):
            return self._ahead.get()
        if self._claims:
            self._forget()
        self._adapt(singly=singly)
        try:
            items = self._queue.get_some(self._at_once)
        except BlockingIOError:
            self._at_once = 1
            raise
        self._taken = time.monotonic()
        if len(items) < 2:
            return items[0] if items else None
        self._ahead.put(self._claim(items))
        self._taken = time.monotonic()
        return self.get(singly=singly)

    def claimed(self, index: int, ref: str) -> Claim | Refusal | None:
        """Return and forget the result of a claim ahead for a ticket; None if it was not claimed ahead."""
        claimed = self._claims.pop((index, ref), None)
        if isinstance(claimed, Claim) and time.monotonic() - self._taken > _STALE:
            self._exchange.release(index, [claimed], repeated=True)
            return None
        return claimed

    def _forget(self) -> None:
        """Forget the claims whose tickets the supervisor has taken back."""
        for index in self._batches:
            claims = [claim for (of, _), claim in self._claims.items() if of == index and isinstance(claim, Claim)]
            if claims:
                self._exchange.release(index, claims, repeated=True)
        self._claims.clear()

    def _adapt(self, *, singly: bool) -> None:
        lasted = time.monotonic() - self._taken
        if singly:
            self._at_once = 1
        elif lasted < _SOON:
            self._at_once = min(2 * self._at_once, _MOST)
        else:
            self._at_once = max(int(self._at_once * _SOON / lasted), 1)

    def _claim(self, items: list[tuple[int, Ticket]]) -> list[tuple[int, Ticket]]:
        """Claim the tickets of backends that support batches. Return all tickets, with the fences of the claims."""
        for index in self._batches:
            refs = list(dict.fromkeys(ticket.ref for of, ticket in items if of == index))
            if len(refs) > 1:
                with contextlib.suppress(SpoolerUnusable):  # the claim of a single ticket raises it too
                    claims = self._exchange.claim(index, refs)
                    self._claims.update(((index, ref), claim) for ref, claim in zip(refs, claims, strict=True))
        return [(index, self._fenced(index, ticket)) for index, ticket in items]

    def _fenced(self, index: int, ticket: Ticket) -> Ticket:
        claim = self._claims.get((index, ticket.ref))
        return ticket._replace(token=claim.fence) if isinstance(claim, Claim) else ticket
