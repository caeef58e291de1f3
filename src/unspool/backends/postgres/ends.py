"""Runs that have ended and are not saved on the server yet.

The claiming thread sends an end with its next claim, so that a task costs one round trip. Other ends cannot wait for a
claim, which may come a week later: a separate thread sends the end of a coroutine beside another run, and ends that are
flushed without waiting. This thread lives as long as there are ends to send.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from ...errors import SpoolerUnusable
from ...message import Claim, Record
from .control import PostgresControl
from .history import History
from .names import Names
from .session import CLAIMS, Session

__all__ = ["Ends", "Run"]

_log = logging.getLogger("unspool")
_CLAIMS = b"%d" % CLAIMS
_NOTHING = (None, None)
_PUT_OFF = 100  # maximum number of ends kept for the next statement
_GATHER = 0.05  # seconds for which ends are collected that cannot wait for a claim
Run = tuple[Claim, Record | None]


class Ends:
    """Settles the runs of a process whose tasks are done.

    :param now: the current time for statements; None to use the server's clock.
    """

    def __init__(
        self,
        session: Session,
        names: Names,
        history: History,
        control: PostgresControl,
        now: Callable[[], float | None],
    ) -> None:
        self._session = session
        self._names = names
        self._history = history
        self._control = control
        self._now = now
        self.claimer = 0
        """The thread that claims."""
        self._lock = threading.Lock()
        self._done: list[Run] = []
        self._flushing = threading.Lock()
        self._scheduled = False  # whether a thread is about to flush

    def add(self, run: Run) -> None:
        """Settle a run with the next claim, or soon if the calling thread is not the claiming one."""
        self.keep([run])
        if threading.get_ident() != self.claimer:
            self._flush_soon()
        elif len(self._done) >= _PUT_OFF:
            self.flush()

    def keep(self, done: Sequence[Run]) -> None:
        """Defer runs, ahead of those that are deferred already."""
        with self._lock:
            self._done[:0] = done

    def take(self) -> list[Run]:
        """Return the deferred runs and forget them. The caller settles them."""
        with self._lock:
            done, self._done = self._done, []
        return done

    def post(self, runs: Iterable[Run]) -> None:
        """Settle runs without waiting for the answers."""
        for run in runs:
            self._session.post(self.values(run), run)

    def hear(self) -> None:
        """Read the answers to posted statements. Defer the runs that the server has not settled."""
        for run, answer in self._session.answers():
            if isinstance(answer, SpoolerUnusable):
                self.keep([run])
            else:
                self.settled([run], () if answer[0] is None else (int(run[0].ref),))

    def flush(self) -> None:
        """Settle the deferred runs, and return when the server has saved them.

        :raises SpoolerUnusable: if the server refuses for a permanent reason.
        """
        with self._flushing:
            self._flush()

    def flush_soon(self) -> None:
        """Settle the deferred runs within a moment, independently of the calling thread."""
        if self._done or self._session.awaits_answers:
            self._flush_soon()

    def settle(self, done: Sequence[Run], *, insist: bool = False) -> None:
        """Settle runs. If this raises, the runs are deferred.

        :raises Transient: without ``insist``, if the server cannot settle them now.
        :raises SpoolerUnusable: if the server refuses them.
        """
        if not done:
            return
        try:
            gone = self._gone(done, insist)
        except SpoolerUnusable:
            self.keep(done)
            raise
        self.settled(done, gone)

    def settled(self, done: Sequence[Run], gone: Sequence[int]) -> None:
        """Forget runs that the server has processed.

        :param gone: the numbers of the tasks that it has deleted; the claims of the others were lost.
        """
        for claim, _ in done:
            number = int(claim.ref)
            self.let_go(number)
            if number not in gone:
                self.refuse(claim)

    def let_go(self, number: int) -> None:
        """Forget the claim of a task."""
        self._session.tasks.pop(number, None)
        self._control.claims.discard(number)

    @staticmethod
    def refuse(claim: Claim) -> None:
        """Log that a claim was lost before its run ended."""
        _log.error("task %s has ended here, but its claim was lost meanwhile, so its end is ignored", claim.id)

    def values(self, run: Run) -> list[bytes | None]:
        """Return the values of ``settle.sql``."""
        claim, record = run
        fence = b"%d" % claim.token
        return [_CLAIMS, self._names.spooler.encode(), claim.ref.encode(), fence, *self._history.texts(record)]

    def values_of_next(self, number: int | None, worker: int | None, last: Run | None) -> list[bytes | None]:
        """Return the values of ``next.sql``, which claims a task and settles the last run."""
        clock, owner = self._now(), self._session.owner
        return [
            None if clock is None else repr(clock).encode(),
            _CLAIMS,
            None if number is None else b"%d" % number,
            self._names.spooler.encode(),
            None if worker is None else b"%d" % worker,
            None if owner is None else b"%d" % owner,
            *(_NOTHING if last is None else (last[0].ref.encode(), b"%d" % last[0].token)),
            *self._history.texts(last and last[1]),
        ]

    def _gone(self, done: Sequence[Run], insist: bool) -> Sequence[int]:
        """Settle runs, and return the numbers of those whose claims were still held."""
        if len(done) == 1:
            values = self.values_of_next(None, None, done[0])
            row = self._session.insist(lambda: self._session.next(values)) if insist else self._session.next(values)
            return () if row[0] is None else (int(done[0][0].ref),)
        columns: Mapping[str, Any] = {
            "ids": [int(claim.ref) for claim, _ in done],
            "fences": [claim.token for claim, _ in done],
            "claims": CLAIMS,
            **self._names.values(),
            **self._history.columns([record for _, record in done if record is not None]),
        }

        def ack() -> Any:
            return self._session.execute("ack", columns)

        found: Sequence[int] = (self._session.insist(ack) if insist else ack())[0] or ()
        return found

    def _flush(self) -> None:
        self.hear()
        self.settle(self.take(), insist=True)

    def _flush_soon(self) -> None:
        with self._lock:
            scheduled, self._scheduled = self._scheduled, True
        if not scheduled:
            threading.Thread(target=self._flush_in_a_moment, name="unspool-ends", daemon=True).start()

    def _flush_in_a_moment(self) -> None:
        time.sleep(_GATHER)
        try:
            with self._flushing:  # while the server is unreachable, a second thread waits here, and no third is started
                with self._lock:
                    self._scheduled = False
                self._flush()
        except SpoolerUnusable as error:  # the claiming thread tries again
            _log.error("%s", error)
