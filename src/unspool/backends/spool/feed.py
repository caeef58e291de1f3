"""The due tasks of a spool directory, found by kernel events and scans and kept in a bounded lookahead.

Events report arrivals, but only scans are complete. A scan runs at the start, after lost events, when the lookahead has
dropped tickets and runs low, and once per period. A scan runs in steps, so that the supervisor is never blocked for
long. It reads names only: a name contains a lower bound of the due time, and the worker's claim reads the rest. If a
scan has dropped tickets that turned out to be deferred, the next scan reads each file's mtime. Otherwise it would hand
out the same tickets again and again.
"""

import contextlib
import itertools
import os
from collections.abc import Iterable, Iterator

from ..base import Clock, FeedState, Ticket
from . import lock
from .deferred_close import DeferredClose
from .directory import Directory
from .layout import PRIVATE, RUN, is_priority, priority_of, rank_of
from .lookahead import Lookahead
from .names import BELL, PREFIX, hint, is_bell, is_task
from .scan import priorities, read
from .sweep import leftovers
from .switches import SpoolSwitches
from .top_n import Selection
from .uwsgi.wakefile import Wakefile
from .watcher import Change, Watcher

__all__ = ["SpoolFeed"]

_STEP = 2_000  # tickets taken in before other work is checked
_SWEPT = 500  # files checked for leftovers after each scan
_SETTLE = 0.1  # seconds to wait for the removal of the directory to finish
_POLL = 1.0  # seconds between scans without kernel events, and between checks for a removed directory
_TICKETS = 128  # handed-out tickets for each message of descriptors that is closed at once, which takes 2 ms


class SpoolFeed:
    """Implement ``base.Feed`` for a spool directory."""

    def __init__(
        self,
        directory: Directory,
        switches: SpoolSwitches,
        clock: Clock,
        wakefile: Wakefile,
        lookahead: Lookahead | None = None,
        deferred_close: DeferredClose | None = None,
    ) -> None:
        self._directory = directory
        self._switches = switches
        self._clock = clock
        self._wakefile = wakefile
        self._lookahead = lookahead or Lookahead()
        self._deferred_close = deferred_close
        self._ended = False  # whether a worker may have passed on descriptors of removed files
        self._watcher = Watcher()
        self._scan: Iterator[list[Ticket]] | None = None
        self._sweep: Iterator[None] | None = None
        self._next_scan = 0.0
        self._last_scan = 0.0
        self._gone = False
        self._busy: dict[str, None] = {}
        self._paused = False
        self._start()

    # --- base.Feed

    def fileno(self) -> int | None:
        return self._watcher.fileno()

    def refresh(self) -> FeedState:
        now = self._clock()
        if self._ended:  # not in the same step in which a new task arrives
            self._ended = self._close_some()
        for change in self._watcher.changes():
            self._note(change, now)
        self._lookahead.promote(now)
        set_back = now < self._last_scan
        if self._scan is None and (now >= self._next_scan or set_back or self._lookahead.lacking):
            self._begin_scan(now)
        if self._scan is not None:
            self._step(self._scan, now)
        return self._state()

    def _state(self) -> FeedState:
        lookahead, paused, scanning = self._lookahead, self._paused, self._scan is not None
        due = lookahead.next_due()
        return FeedState(
            more=scanning,
            head=None if paused else lookahead.peek(),
            ready=lookahead.ready,
            idle=not (lookahead.out or scanning) and (paused or not lookahead.ready),
            paused=paused,
            available=not self._gone,
            next_due=self._next_scan if due is None else min(due, self._next_scan),
        )

    def take(self, limit: int) -> list[Ticket]:
        return [] if self._paused else self._lookahead.take(limit)

    def release(self, tickets: Iterable[Ticket]) -> None:
        self._lookahead.release(tickets)

    def done(self, ref: str, until: float | None) -> None:
        self._lookahead.done(ref)
        self._ended = True
        self._busy.pop(ref, None)
        if until is not None:
            self._lookahead.defer(self._ticket(ref, until), until)

    def recheck(self, refs: Iterable[str] | None = None) -> None:
        for ref in self._lookahead.handed_out() if refs is None else refs:
            self._lookahead.done(ref)
            self._busy[ref] = None
            if not self._locked(ref):  # it was released before the event arrived
                self._retry_busy(ref)

    def close(self) -> None:
        self._watcher.close()
        if self._deferred_close is not None:
            self._deferred_close.close()

    # --- events

    def _start(self) -> None:
        """Start the watches before the first scan, so that no arrival is missed between the two."""
        self._directory.fd(RUN)
        self._watch("")
        self._watch(PRIVATE, removals=True)
        self._watch(RUN, removals=True)
        self._lookahead.hold_back()
        self._next_scan = 0.0
        self._look_at_switches()

    def _watch(self, part: str, *, removals: bool = False) -> None:
        """Watch a part. If the kernel refuses, no more events arrive, so the next scan comes soon."""
        worked = self._watcher.working
        self._watcher.watch(part, self._directory.path(part), removals=removals)
        if worked and not self._watcher.working:
            self._next_scan = min(self._next_scan, self._clock() + _POLL)

    def _note(self, change: Change, now: float) -> None:
        if change.lost or (change.part == PRIVATE and change.directory):
            self._next_scan = min(self._next_scan, now + _SETTLE)
        elif change.part == RUN:
            self._look_at_switches()
        elif change.directory:
            if not change.part and is_priority(change.name):
                self._watch_priority(change.name)
        elif is_task(change.name):
            ref = f"{change.part}/{change.name}" if change.part else change.name
            if ref in self._busy:
                self._retry_busy(ref)
            elif ref in self._lookahead:
                self._look_again(ref, now)
            else:
                self._take_in(ref, change.name, now)

    def _take_in(self, ref: str, name: str, now: float) -> None:
        """Add a file that the lookahead does not hold. Its mtime is read as well as its name.

        A worker that finds a task not yet due closes its file, which is an event too. If the lookahead has no room for
        the task, such events would repeat forever.
        """
        self._lookahead.add(self._ticket(ref, _due(self._directory.path(ref), name, now)), now)

    def _look_at_switches(self) -> None:
        self._paused = self._switches.paused
        self._next_scan = min(self._next_scan, self._clock() + self._interval())

    def _interval(self) -> float:
        """Return the seconds between scans. The interval is long while kernel events work."""
        period = self._switches.period
        return period if self._watcher.working else min(period, _POLL)

    def _watch_priority(self, part: str) -> None:
        """Watch a new priority directory, and read once what arrived before the watch began."""
        self._watch(part)
        now = self._clock()
        for tickets in self._entries(part, now):
            for ticket in tickets:
                self._lookahead.add(ticket, now)

    def _look_again(self, ref: str, now: float) -> None:
        """Read the mtime of a waiting file that was touched. It is the due time, even if it is earlier than known."""
        with contextlib.suppress(OSError):
            due = os.stat(self._directory.path(ref), follow_symlinks=False).st_mtime
            self._lookahead.forget_deferred(ref)
            self._lookahead.add(self._ticket(ref, due), now)

    def _retry_busy(self, ref: str) -> None:
        """Check a busy task whose file was closed. Opening it for reading only causes no event for other processes."""
        if not self._locked(ref):
            self._busy.pop(ref, None)
            self._look_again(ref, self._clock())

    def _close_some(self) -> bool:
        """Close descriptors that workers have passed on. Return whether there may be more.

        While workers have tickets for the time that it takes, more are closed, so that few are left at the end.
        """
        messages = max(1, self._lookahead.out // _TICKETS)
        return self._deferred_close is not None and all(self._deferred_close.close_some() for _ in range(messages))

    def _locked(self, ref: str) -> bool:
        return lock.is_locked(self._directory.path(ref))

    # --- scans

    def _begin_scan(self, now: float) -> None:
        if self._directory.is_gone():
            there = os.path.isdir(self._directory.root)
            # Only once, even if another directory replaces it, because its registrations are gone.
            if not there or not self._gone:
                self._gone, self._next_scan = True, now if there else now + _POLL
                return
            self._begin_anew()
        self._gone = False
        self._last_scan = now
        self._paused = self._switches.paused
        exact = self._lookahead.forgetful
        self._lookahead.open_horizon()
        self._busy = {ref: None for ref in self._busy if self._locked(ref)}
        self._scan = self._all_entries(now, exact)

    def _begin_anew(self) -> None:
        """Start again on a directory that has replaced the watched one."""
        self._directory.reopen()
        former, self._watcher = self._watcher, Watcher()
        former.close()  # closed last, so that the new descriptor has another number and the change is noticed
        self._lookahead = Lookahead()
        self._busy.clear()
        self._start()

    def _step(self, scan: Iterator[list[Ticket]], now: float) -> None:
        tickets = next(scan, None)
        if tickets is not None:
            for ticket in tickets:
                if ticket.ref not in self._busy:
                    self._lookahead.add(ticket, now)
            return
        self._scan = None
        self._tidy()
        self._lookahead.lift_barrier()
        self._next_scan = now + self._interval()

    def _tidy(self) -> None:
        """Remove some of the files that killed processes left behind, and continue after the next scan."""
        self._sweep = self._sweep or leftovers(self._directory)
        if sum(1 for _ in itertools.islice(self._sweep, _SWEPT)) < _SWEPT:
            self._sweep = None

    def _all_entries(self, now: float, exact: bool) -> Iterator[list[Ticket]]:
        parts: list[str] = []
        yield from self._entries("", now, exact, parts)
        for part in sorted(parts, key=int):
            self._watch(part)
            yield from self._entries(part, now, exact)

    def _entries(
        self, part: str, now: float, exact: bool = False, parts: list[str] | None = None
    ) -> Iterator[list[Ticket]]:
        """Yield the tickets of a directory, one list for each step. Add its priority directories to ``parts``.

        Tickets are created at the end, for the earliest names only. They are created at once for names without a time,
        and in an exact scan.
        """
        rank, lead = rank_of(int(part) if part else None), f"{part}/" if part else ""
        selection = Selection(self._lookahead.latest(rank, now), self._lookahead.room)
        for entries in read(self._directory, part):
            if exact:  # in an exact scan, the lookahead drops the tickets that have no room
                selection.limit(self._lookahead.latest(rank, now)[0])
            found = selection.sift(entries)
            tasks = [one.name for one in found if one.name.startswith(PREFIX)]
            if parts is not None and len(tasks) < len(found):
                parts += priorities(found)
            at_once = selection.add(self._unknown(lead, tasks), exact)
            yield [Ticket(rank, self._due(lead, name, now) if exact else hint(name), lead + name) for name in at_once]
        yield from self._chosen(rank, lead, selection)

    def _chosen(self, rank: int, lead: str, selection: Selection) -> Iterator[list[Ticket]]:
        for earliest, narrow in (
            (selection.come, self._lookahead.narrow),
            (selection.later, self._lookahead.narrow_deferred),
        ):
            tickets = [Ticket(rank, hint(name), lead + name) for name in earliest.items()]
            yield from (tickets[at : at + _STEP] for at in range(0, len(tickets), _STEP))
            if earliest.last is not None:
                narrow(tickets[-1])

    def _unknown(self, lead: str, names: list[str]) -> list[str]:
        """Return the tasks that the lookahead does not hold."""
        if bells := [name for name in names if name.startswith(BELL) and is_bell(name)]:
            self._wakefile.sweep(bells)
            names = [name for name in names if name not in bells]
        return [name for name in names if lead + name not in self._lookahead]

    def _due(self, lead: str, name: str, now: float) -> float:
        """Return the due time of a file. Its mtime is read unless its name already says that it waits."""
        return at if (at := hint(name)) > now else _due(self._directory.path(lead + name), name, now)

    @staticmethod
    def _ticket(ref: str, due: float) -> Ticket:
        return Ticket(rank_of(priority_of(ref)), due, ref)


def _due(path: str, name: str, now: float) -> float:
    """Return a file's mtime if it is in the future; otherwise the more precise time in its name."""
    with contextlib.suppress(OSError):
        due = os.stat(path, follow_symlinks=False).st_mtime
        return due if due > now else hint(name)
    return hint(name)
