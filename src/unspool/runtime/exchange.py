"""The claims of a worker, and the ends of its runs until they are settled.

A directory settles each run at once. A server settles finished runs with the next claims, so that a task costs less
than one round trip. If no claim follows soon, a thread settles the ends, and stops when none are left. If the worker is
killed before its ends are settled, its supervisor settles them. If both are killed, these tasks run again.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from ..backends.base import Backend, Clock
from ..errors import SpoolerUnreachable, SpoolerUnusable
from ..message import Claim, End, Refusal, RefusalKind, Release

__all__ = ["Exchange"]

T = TypeVar("T")
_log = logging.getLogger("unspool")
_GATHER = 0.05  # seconds after which a thread settles ends that were not settled with a claim
_AWAY = 0.5  # seconds until another try while a server is unreachable
_PATIENCE = (0.05, 5.0)  # seconds between tries to settle: first and maximum

Settled = Callable[[int, int], object]
"""Called with the number of the backend, and how many of its oldest deferred ends are settled."""


class Exchange:
    """Claims tasks and settles runs.

    :param settled: called when deferred ends are settled, in the thread that has settled them.
    """

    def __init__(self, backends: Sequence[Backend], settled: Settled, clock: Clock) -> None:
        self._backends = backends
        self.defers = [backend.capabilities.remote for backend in backends]
        """For each backend, whether its ends can be deferred, because settling them costs a round trip to a server."""
        self._settled = settled
        self._clock = clock
        self._pending: list[list[End]] = [[] for _ in backends]
        self._lock = threading.Lock()
        self._settling = threading.Lock()
        self._scheduled = False  # whether a thread will settle what is pending

    def claim(self, index: int, refs: Sequence[str]) -> list[Claim | Refusal]:
        """Claim tasks of a backend, and settle its ended runs. Only one thread may claim.

        :raises SpoolerUnusable: if this process cannot claim any task.
        """
        try:
            return self._exchange(index, refs)
        except SpoolerUnreachable as error:  # the connection or the feed logs it
            time.sleep(_AWAY)
            return [Refusal(RefusalKind.EARLY, self._clock() + _AWAY, str(error))] * len(refs)

    def end(self, index: int, end: End) -> float | None:
        """Settle a run now. Retry until the server answers. Return when the task must be checked again.

        :raises ClaimLost: as ``Backend.exchange``.
        """
        if not self.defers[index]:
            (until,), _ = self._backends[index].exchange((end,), ())
            return until
        return insist(lambda repeated: self._backends[index].exchange((end._replace(repeated=repeated),), ()).ended[0])

    def defer(self, index: int, end: End) -> None:
        """Settle a finished run with the next claim, or soon. ``settled`` is called when that is done."""
        with self._lock:
            self._pending[index].append(end)
            scheduled, self._scheduled = self._scheduled, True
        if not scheduled:
            threading.Thread(target=self._settle_soon, name="unspool-ends", daemon=True).start()

    def release(self, index: int, claims: Iterable[Claim], *, repeated: bool = False) -> None:
        """Give back claims of tasks that were not started.

        :param repeated: whether another process may have given them back already.
        """
        ends = [End(claim, Release(), None, repeated) for claim in claims]
        insist(lambda _: self._backends[index].exchange(ends, ()))

    def settle(self) -> None:
        """Settle all ended runs. Retry until the server answers.

        :raises SpoolerUnusable: if a server refuses for a permanent reason. Its tasks run again.
        """
        if self._scheduled:
            insist(lambda _: self._settle())

    def rest(self) -> None:
        """Settle all ended runs before a wait, and let the backends tidy up."""
        self.settle()
        for backend in self._backends:
            backend.exchange((), ())

    def _settle(self) -> None:
        for index, pending in enumerate(self._pending):
            if self.defers[index] and (pending or self._settling.locked()):
                self._exchange(index, ())

    def _exchange(self, index: int, refs: Sequence[str]) -> list[Claim | Refusal]:
        if not self.defers[index]:
            return self._backends[index].exchange((), refs).taken
        with self._settling:  # so that ends are settled in the order of ``defer``
            with self._lock:
                ends, self._pending[index] = self._pending[index], []
            if not (ends or refs):
                return []
            try:
                exchanged = self._backends[index].exchange(ends, refs)
            except SpoolerUnreachable:
                with self._lock:
                    self._pending[index][:0] = [end._replace(repeated=True) for end in ends]
                raise
            if ends:
                self._settled(index, len(ends))
            return exchanged.taken

    def _settle_soon(self) -> None:
        wait = _GATHER
        while True:
            time.sleep(wait)
            with self._lock:
                if not any(self._pending):
                    self._scheduled = False
                    return
            try:
                self._settle()
                wait = _GATHER
            except SpoolerUnreachable:
                wait = min(wait * 2, _PATIENCE[1])
            except SpoolerUnusable as error:  # the claiming thread raises it too
                _log.error("%s", error)


def insist(call: Callable[[bool], T]) -> T:
    """Repeat a call until the server answers, and return its result.

    :param call: is called with True if an earlier attempt may have succeeded.
    :raises SpoolerUnusable: if the server refuses for a permanent reason.
    """
    wait, repeated = _PATIENCE[0], False
    while True:
        try:
            return call(repeated)
        except SpoolerUnreachable as error:
            if not repeated:
                _log.warning("%s; trying again until it succeeds", error)
            time.sleep(wait)
            wait, repeated = min(wait * 2, _PATIENCE[1]), True
