"""The spool directory as a backend. ``sending`` explains how tasks are sent, and ``claims`` how they are run."""

import logging
import os
import time
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Literal

from ...errors import SpoolerUnusable
from ...finding import Finding
from ...imports import late
from ...message import Duplicate, Envelope, Record
from ..base import Capabilities, Clock, Feed, Switches, WorkerInfo
from ..change import Change, Remove
from ..page import Counts, Page, Query, RunQuery
from ..registration import Registration
from .changing import Changing
from .claims import Claims
from .deferred_close import DeferredClose
from .depot import SpoolDepot
from .directory import Directory
from .feed import SpoolFeed
from .ids import origin
from .keys import Keys
from .keyvalue import SpoolKeyValue
from .layout import is_priority
from .listing import Listing
from .registrations import SpoolRegistration, processes
from .sending import Sender
from .switches import SpoolSwitches
from .uwsgi.wakefile import Wakefile

if TYPE_CHECKING:
    from .history import History

__all__ = ["SpoolBackend"]

_log = logging.getLogger("unspool")


class SpoolBackend:
    """Tasks as files in a directory, in uWSGI's format.

    :param root: the absolute path of the directory, which is created on first use.
    :param durable: True to sync each task to the disk before its call returns.
    :param period: seconds between full scans of the directory, unless ``switch`` changes them.
    :param history_limit: the number of runs that the history keeps.
    :param history_age: seconds for which the history keeps them.
    :param max_size: the maximum size of a task's body in bytes. A larger task becomes a dead letter unread.
    :param signed: whether only signed tasks are run, so that the directory may belong to another user.
    """

    capabilities = Capabilities(feeds=True, forks=True, unique=True, journals=True)
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
        signed: bool = False,
        clock: Clock = time.time,
    ) -> None:
        self.name = root
        self._clock = clock
        self._directory = Directory(root, signed=signed)
        self._claims = claims = Claims(self._directory, max_size, clock, self._rest)
        # Not methods that pass the calls on, because ``exchange`` is called for each task.
        self.exchange, self.mark = claims.exchange, claims.mark
        self._switches = SpoolSwitches(self._directory, period)
        self.kv = SpoolKeyValue(self._directory, durable, clock)
        self._history_bounds = history_limit, history_age
        self._listing = Listing(self._directory, lambda: claims.attempts, max_size, clock)
        keys = Keys(self._directory, durable, clock)
        self._changing = Changing(self._directory, lambda: claims.attempts, keys, clock)
        self.wakefile = Wakefile(self._directory, clock)
        """The wakefile, which leads uWSGI to the tasks with a priority."""
        self._sender = Sender(self._directory, self.wakefile, keys, durable, clock)
        self.depot = SpoolDepot(
            self._directory,
            self._changing,
            lambda: claims.attempts,
            claims.objection,
            self.wakefile,
            keys,
            max_size,
            clock,
        )

    def has_lost_descriptors(self) -> bool:
        return self._directory.has_lost_descriptors()

    # --- producers

    def send(self, envelopes: Sequence[Envelope]) -> list[str]:
        refs = self._sender.send(envelopes)
        ids = [f"{self.name}/{ref}" for ref in refs]
        if any(envelope.unique for envelope in envelopes):
            return [Duplicate(id) if isinstance(ref, Duplicate) else id for id, ref in zip(ids, refs, strict=True)]
        return ids

    # --- workers

    def feed(self) -> Feed:
        self._look_at_owner()
        _ = self._history  # imported before the fork, so that children share it
        self._claims.deferred_close = closing = DeferredClose()
        return SpoolFeed(self._directory, self._switches, self._clock, self.wakefile, deferred_close=closing)

    def outbox(self) -> Feed:
        self._look_at_owner()
        return SpoolFeed(self._directory, self._switches, lambda: self._clock() + self.ahead, self.wakefile)

    def switch(self, *, paused: bool | None = None, period: float | None = None) -> Switches:
        return self._switches.switch(paused=paused, period=period)

    def register(self, role: str) -> Registration:
        return SpoolRegistration(self._directory, role)

    def live(self) -> list[WorkerInfo]:
        return processes(self._directory)

    def _look_at_owner(self) -> None:
        owner = self._directory.owner
        if not self._directory.signed and owner.stranger:
            raise SpoolerUnusable(f"spooler {self.name} cannot be used: {self._claims.stranger()}")
        if not self._directory.signed and owner.shared:
            _log.warning(
                "spooler %s may be written by its group, whose members can run code as you; chmod g-w it, or set "
                "UNSPOOL_SECRET_KEY",
                self.name,
            )

    def _rest(self) -> None:
        if self._claims.deferred_close is not None:
            self._claims.deferred_close.pass_on()
        self._history.tidy()

    # --- inspection

    def page(self, query: Query, after: str = "", limit: int = 100) -> Page:
        if isinstance(query, RunQuery):
            id = origin(self.name, query.id) if query.id else ""
            return self._history.page(query._replace(id=id), after, limit)
        return self._listing.page(query, after, limit)

    def counts(self, by: Literal["state", "label"] = "state") -> Counts:
        return self._listing.counts(by)

    def change(self, id: str, change: Change) -> str:
        changed = self._changing.change(id, change)
        if not isinstance(change, Remove) and is_priority(os.path.basename(os.path.dirname(changed))):
            self.wakefile.announce(None)
        return changed

    def check(self, *, prepare: bool = False) -> Iterator[Finding]:
        if prepare:
            return iter(())
        with late:
            from .check import check

        return check(self._directory)

    def record(self, records: Sequence[Record], *, journal: bool = False) -> None:
        if journal:
            self._history.jot(records)
        else:
            self._history.add(records)

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
