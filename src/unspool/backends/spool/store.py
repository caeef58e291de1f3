"""The spool directory as a backend. ``sending`` explains how tasks are sent, and ``claims`` how they are run."""

import logging
import os
import time
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from ...codec import is_pickled
from ...errors import PayloadRefused, SpoolerUnusable
from ...imports import late
from ...message import Entry, Envelope, Record, State
from ...signing import Signer
from ..base import UNSIGNED_PICKLE, Capabilities, Clock, Feed, Summary
from .claims import Claims
from .control import SpoolControl
from .deferred_close import DeferredClose
from .depot import SpoolDepot
from .directory import Directory
from .feed import SpoolFeed
from .keyvalue import SpoolKeyValue
from .layout import is_priority
from .listing import Listing
from .pieces import short
from .sending import Sender
from .uwsgi.wakefile import Wakefile

if TYPE_CHECKING:
    from .history import History

__all__ = ["SpoolBackend"]

_log = logging.getLogger("unspool")


class SpoolBackend:
    """Tasks as files in a directory, in uWSGI's format.

    :param root: the absolute path of the directory, which is created on first use.
    :param durable: True to sync each task to the disk before its call returns.
    :param period: seconds between full scans of the directory, unless ``set_period`` changes them.
    :param history_limit: the number of runs that the history keeps.
    :param history_age: seconds for which the history keeps them.
    :param max_size: the maximum size of a task's body in bytes. A larger task becomes a dead letter unread.
    :param signer: signs the tasks that are sent, and refuses unsigned ones; None if no secret key is set.
    :param pickles: False to refuse pickles, if tasks are forwarded to a server that would refuse them.
    """

    capabilities = Capabilities(feeds=True, forks=True)
    ahead = 100 * 365 * 86400.0

    def __init__(
        self,
        root: str,
        *,
        durable: bool = True,
        period: float = 300.0,
        history_limit: int = 100_000,
        history_age: float = 7 * 86400.0,
        max_size: int = 1 << 28,
        signer: Signer | None = None,
        pickles: bool = True,
        clock: Clock = time.time,
    ) -> None:
        self.name = root
        self._pickles = pickles
        self._signer = signer
        self._clock = clock
        self._directory = Directory(root, signed=signer is not None)
        self._claims = claims = Claims(self._directory, signer, max_size, clock, self._rest)
        # Not methods that pass the calls on, because ``exchange`` is called for each task.
        self.exchange, self.mark = claims.exchange, claims.mark
        self.control = SpoolControl(self._directory, period)
        self.kv = SpoolKeyValue(self._directory, durable, clock)
        self._history_bounds = history_limit, history_age
        self._listing = Listing(self._directory, lambda: claims.attempts, max_size, clock)
        self.wakefile = Wakefile(self._directory, clock)
        """The wakefile, which leads uWSGI to the tasks with a priority."""
        self._sender = Sender(self._directory, self.wakefile, signer, durable, clock)
        self.depot = SpoolDepot(
            self._directory, self._listing, lambda: claims.attempts, claims.objection, self.wakefile, max_size, clock
        )

    def has_lost_descriptors(self) -> bool:
        return self._directory.has_lost_descriptors()

    # --- producers

    def exists(self) -> bool:
        if not os.path.lexists(self.name):
            return False
        self._directory.fd("")
        return True

    def send(self, envelopes: Sequence[Envelope]) -> list[str]:
        if not self._pickles and any(map(is_pickled, envelopes)):
            raise PayloadRefused(
                f"spooler {self.name}, which is forwarded, does not accept this payload: {UNSIGNED_PICKLE}"
            )
        return [f"{self.name}/{ref}" for ref in self._sender.send(envelopes)]

    # --- workers

    def feed(self) -> Feed:
        self._look_at_owner()
        _ = self._history  # imported before the fork, so that children share it
        self._claims.deferred_close = closing = DeferredClose()
        return SpoolFeed(self._directory, self.control, self._clock, self.wakefile, deferred_close=closing)

    def outbox(self) -> Feed:
        self._look_at_owner()
        return SpoolFeed(self._directory, self.control, lambda: self._clock() + self.ahead, self.wakefile)

    def _look_at_owner(self) -> None:
        owner = self._directory.owner
        if self._signer is None and owner.stranger:
            raise SpoolerUnusable(f"spooler {self.name} cannot be used: {self._claims.stranger()}")
        if self._signer is None and owner.shared:
            _log.warning(
                "spooler %s may be written by its group, whose members can run code as you; chmod g-w it, or set "
                "UNSPOOL_SECRET_KEY",
                self.name,
            )

    def jot(self, records: Sequence[Record]) -> None:
        """Add runs to this process's journal, which is cheap, from any process."""
        self._history.jot(records)

    def _rest(self) -> None:
        if self._claims.deferred_close is not None:
            self._claims.deferred_close.pass_on()
        self._history.tidy()

    # --- inspection

    def entries(self, states: frozenset[State] = frozenset(State), limit: int | None = None) -> Iterator[Entry]:
        return self._listing.entries(states, limit)

    def counts(self) -> dict[State, int]:
        return self._listing.summary().counts

    def summary(self) -> Summary:
        return self._listing.summary()

    def find(self, id: str) -> Entry | None:
        return self._listing.find(id)

    def short(self, id: str) -> str:
        return short(os.path.basename(id))

    def matching(self, piece: str, *, ended: bool = False) -> list[str]:
        return self._history.matching(piece) if ended else self._listing.matching(piece)

    def read(self, id: str) -> tuple[Entry, Envelope | None] | None:
        return self._listing.read(id)

    def retry(self, id: str) -> str:
        target = self._listing.retry(id)
        if is_priority(os.path.basename(os.path.dirname(target))):
            self.wakefile.announce(None)
        return target

    def remove(self, id: str) -> None:
        self._listing.remove(id)

    def record(self, records: Sequence[Record]) -> None:
        self._history.add(records)

    def history(self, *, id: str | None = None, limit: int = 100) -> list[Record]:
        return self._history.latest(None if id is None else self._listing.origin(id), limit)

    def close(self) -> None:
        self.kv.close()
        self.depot.release()
        if "_history" in vars(self):
            self._history.close()
        self._directory.close()

    # --- parts

    @cached_property
    def _history(self) -> "History":
        with late:  # imports SQLite, which most senders never need
            from .history import History

        return History(self._directory, *self._history_bounds, self._clock)
