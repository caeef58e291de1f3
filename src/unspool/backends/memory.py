"""Tasks in this process's memory: the reference model, and a backend for tests.

Nothing outlives the process, and no other process sees the tasks. It behaves like the spool directory, with the
simplest possible code. A state machine in the tests compares the two.
"""

import itertools
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from .. import wire
from ..codec import task_label
from ..errors import Damaged, OptionRefused, TaskBusy
from ..finding import OK, Finding
from ..message import (
    Ack,
    Bury,
    Claim,
    DeferOnCrash,
    Duplicate,
    End,
    Entry,
    Envelope,
    Exchanged,
    Mark,
    Record,
    Refusal,
    RefusalKind,
    Release,
    Retry,
    State,
    Unique,
)
from ..task_id import short_id
from .base import (
    UNNUMBERED,
    Capabilities,
    Clock,
    Feed,
    FeedState,
    Switches,
    Ticket,
    WorkerInfo,
)
from .change import Change, Remove, Reprioritise, RunNow, kept_out
from .depot import MOVING, Parcel
from .memory_keyvalue import MemoryKeyValue
from .page import (
    Counts,
    Page,
    Query,
    RunPosition,
    RunQuery,
    TaskPosition,
    in_order,
    page_of_runs,
    page_of_task,
    page_of_tasks,
)
from .registration import Registration

__all__ = ["MemoryBackend"]


@dataclass(slots=True)
class _Task:
    number: int
    data: bytes
    priority: int | None
    due: float
    attempts: int = 0
    crashes: int = 0
    unhandled: int = 0
    running: bool = False
    aside: State | None = None
    reason: str = ""
    key: str = ""  # while the task is in transfer
    arriving: bool = False
    destination: str = ""
    unique: Unique | None = None

    @property
    def leaving(self) -> bool:
        return bool(self.key) and not self.arriving

    def ticket(self, ref: str) -> Ticket:
        return Ticket(UNNUMBERED if self.priority is None else self.priority, self.due, ref)


class MemoryBackend:
    """Implement ``base.Backend`` in a dict.

    :param name: the spooler's name: a path or a URL. Any other text, such as ``mail``, stands for ``memory://mail``.
    :raises OptionRefused: if the name is empty or no text.
    """

    capabilities = Capabilities(feeds=True, forks=False, unique=True)

    def __init__(
        self,
        name: str = "memory",
        *,
        clock: Clock = time.time,
        period: float = 300.0,
    ) -> None:
        if not isinstance(name, str) or not name:
            raise OptionRefused(f"the name of a memory backend is {name!r}; it must be text, such as 'mail'")
        self.name = name if "/" in name else f"memory://{name}"
        self._switches = Switches(False, period)
        self.kv = MemoryKeyValue(clock)
        self._clock = clock
        self._numbers = itertools.count(1)
        self._tasks: dict[str, _Task] = {}
        self.depot = MemoryDepot(self.name, self._tasks, self._numbers, self._holder)
        self._records: list[Record] = []

    def send(self, envelopes: Sequence[Envelope]) -> list[str]:
        ids: list[str] = []
        for envelope in envelopes:
            if envelope.unique and (holder := self._holder(envelope.unique.key)):
                ids.append(Duplicate(holder))
                continue
            number = next(self._numbers)
            due = self._clock() if envelope.due is None else envelope.due
            ids.append(id := f"{self.name}/{number}")
            self._tasks[id] = _Task(number, envelope.data, envelope.priority, due, unique=envelope.unique)
        return ids

    def _holder(self, key: str) -> str | None:
        """Return the id of the task that has a key; None if the key is free."""
        return next((id for id, task in self._tasks.items() if self._holds(task, key)), None)

    def _holds(self, task: _Task, key: str) -> bool:
        if task.unique is None or task.unique.key != key or task.unique.until <= self._clock():
            return False
        if task.aside or task.arriving:
            return False
        return not (task.unique.start and (task.attempts or task.unhandled))

    def feed(self) -> Feed:
        return MemoryFeed(self._tasks, self.switch, self._clock)

    def exchange(self, ends: Sequence[End], refs: Sequence[str]) -> Exchanged:
        return Exchanged([self._settle(end) for end in ends], [self._claim(ref) for ref in refs])

    def _claim(self, ref: str) -> Claim | Refusal:
        task = self._tasks.get(ref)
        if task is None or task.aside or task.key:
            return Refusal(RefusalKind.GONE)
        if task.running:
            return Refusal(RefusalKind.BUSY)
        if task.due > self._clock():
            return Refusal(RefusalKind.EARLY, task.due)
        envelope = Envelope(task.data, task.priority, task.due)
        task.attempts += 1
        task.running = True
        return Claim(ref, ref, envelope, task.attempts, task.crashes, unhandled=task.unhandled)

    def _settle(self, end: End) -> float | None:
        claim = end.claim
        task = self._tasks.get(claim.ref)
        if task is None:
            return None
        task.running = False
        match end.disposition:
            case Ack():
                del self._tasks[claim.ref]
            case Retry(at, begun):
                task.due = at
                task.attempts -= not begun
                task.unhandled += not begun
                return at
            case Release(crashed):
                task.attempts -= not crashed
                task.crashes += crashed
                return self._clock()
            case Bury(reason, corrupt, begun, _):
                task.attempts -= not begun
                task.aside, task.reason = State.CORRUPT if corrupt else State.DEAD, reason
        return None

    def crash(self, claim: Claim) -> None:
        """Simulate the death of the worker that holds a claim."""
        task = self._tasks[claim.ref]
        task.running = False
        task.crashes += 1

    def mark(self, ref: str, mark: Mark) -> None:
        if isinstance(mark, DeferOnCrash) and (task := self._tasks.get(ref)) is not None and task.running:
            task.due = mark.until

    def page(self, query: Query, after: str = "", limit: int = 100) -> Page:
        if isinstance(query, RunQuery):
            return self._page_of_runs(query, RunPosition.load(after), limit)
        start = TaskPosition.load(after)
        if query.id:
            return page_of_task(query, self._read(query.id))
        now = start.now if start else self._clock()
        known = [(task.number, self._entry(id, task, now)) for id, task in self._tasks.items() if not task.arriving]
        if query.piece:
            known = [(number, entry) for number, entry in known if short_id(entry.id) == query.piece]
        return page_of_tasks(query, in_order(known, now, start), limit)

    def _page_of_runs(self, query: RunQuery, start: RunPosition | None, limit: int) -> Page:
        newest = enumerate(reversed(self._records[: start.number if start else None]), 1)
        total = start.number if start else len(self._records)
        found = ((run, RunPosition(run.started + run.duration, total - number)) for number, run in newest)
        if query.piece:
            last = {run.id: run for run in self._records if short_id(run.id) == query.piece}
            return Page(runs=tuple(filter(query.wants, last.values())))
        return page_of_runs(query, (one for one in found if query.id in ("", one[0].id)), limit)

    def counts(self, by: Literal["state", "label"] = "state") -> Counts:
        entries = [self._entry(id, task) for id, task in self._tasks.items() if not task.arriving]
        if by == "label":
            return Counts(dict(Counter(entry.task for entry in entries)))
        ready = (entry.due for entry in entries if entry.state is State.READY)
        counted = Counter(entry.state for entry in entries)
        return Counts({state: counted[state] for state in State}, min(ready, default=None))

    def _read(self, id: str) -> tuple[Entry, Envelope | None] | None:
        task = self._tasks.get(id)
        if task is None or task.arriving:
            return None
        return self._entry(id, task), Envelope(task.data, task.priority, task.due)

    def change(self, id: str, change: Change) -> str:
        task = self._idle(id)
        match change:
            case RunNow():
                if task.aside and task.unique and (holder := self._holder(task.unique.key)):
                    raise kept_out(id, holder)
                task.aside, task.reason, task.due = None, "", self._clock()
                task.attempts = task.crashes = task.unhandled = 0
            case Remove():
                del self._tasks[id]
            case Reprioritise(priority):
                task.priority = priority
        return id

    def check(self, *, prepare: bool = False) -> Iterator[Finding]:
        if not prepare:
            yield Finding(self.name, OK, "is in the memory of this process")

    def has_lost_descriptors(self) -> bool:
        return False

    def switch(self, *, paused: bool | None = None, period: float | None = None) -> Switches:
        former = self._switches
        self._switches = Switches(
            former.paused if paused is None else paused, former.period if period is None else period
        )
        return self._switches

    def register(self, role: str) -> Registration:
        raise OptionRefused(
            "a memory backend keeps its tasks in one process, so no worker process can run them; run them in that "
            "process with unspool.testing.run_all(backend), or use a spool directory or a server"
        )

    def live(self) -> list[WorkerInfo]:
        return []

    def record(self, records: Sequence[Record], *, journal: bool = False) -> None:
        self._records.extend(records)

    def close(self) -> None:
        self.kv.close()

    def stored(self, id: str) -> bytes:
        """Return the bytes of a task, as other backends store them."""
        return self._tasks[id].data

    def alter(self, id: str, data: bytes) -> None:
        """Replace the bytes of a task, as a fault of a disk or a hostile program does."""
        self._tasks[id].data = data

    def _idle(self, id: str) -> _Task:
        if id not in self._tasks or self._tasks[id].arriving:
            raise LookupError(f"no task {id} in spooler {self.name}")
        task = self._tasks[id]
        if task.leaving:
            raise TaskBusy(f"task {id} {MOVING}")
        if task.running:
            raise TaskBusy(f"task {id} is running; ask again when it has ended")
        return task

    def _entry(self, ref: str, task: _Task, now: float | None = None) -> Entry:
        now = self._clock() if now is None else now
        state = task.aside or (State.RUNNING if task.running else State.DEFERRED if task.due > now else State.READY)
        try:
            label = task_label(wire.load_vars(task.data).vars)
        except Damaged:
            label = "?"
        reason = task.reason or (MOVING if task.leaving else "")
        return Entry(ref, state, self.name, label, task.priority, task.due, task.attempts, len(task.data), reason)


class MemoryDepot:
    """Implement ``depot.Depot`` with marks on the tasks. No other process can move them."""

    def __init__(
        self, name: str, tasks: dict[str, _Task], numbers: Iterator[int], holder: Callable[[str], str | None]
    ) -> None:
        self._holder = holder
        self._name = name
        self._tasks = tasks
        self._numbers = numbers

    def leave(self, ids: Iterable[str]) -> list[Parcel]:
        parcels = []
        for id in ids:
            task = self._tasks.get(id)
            if task is not None and not task.running and not task.key:
                task.key = uuid.uuid4().hex
                parcels.append(self._parcel(id, task))
        return parcels

    def departures(self) -> list[Parcel]:
        return [self._parcel(id, task) for id, task in self._tasks.items() if task.leaving]

    def release(self) -> None:
        """Do nothing, because no other process can take over."""

    def stay(self, parcels: Sequence[Parcel], corrupt: str = "") -> None:
        for parcel in parcels:
            task = self._tasks[parcel.id]
            task.key = ""
            if corrupt and not task.aside:
                task.aside, task.reason = State.CORRUPT, corrupt

    def left(self, parcels: Sequence[Parcel], destination: str) -> list[Parcel]:
        for parcel in parcels:
            self._tasks[parcel.id].destination = destination
        return [parcel._replace(destination=destination) for parcel in parcels]

    def gone(self, parcels: Sequence[Parcel]) -> None:
        for parcel in parcels:
            self._tasks.pop(parcel.id, None)

    @property
    def identity(self) -> str:
        return ""

    def accept(self, parcels: Sequence[Parcel]) -> None:
        for parcel in parcels:
            id = next((id for id, task in self._tasks.items() if task.arriving and task.key == parcel.key), None)
            number = next(self._numbers) if id is None else self._tasks[id].number
            aside = None if parcel.state is State.READY else parcel.state
            self._tasks[f"{self._name}/{number}"] = _Task(
                number, parcel.data, parcel.priority, parcel.due, parcel.attempts, parcel.crashes,
                aside=aside, reason=parcel.reason, key=parcel.key, arriving=True, unique=parcel.unique,
            )  # fmt: skip

    def confirm(self, parcels: Sequence[Parcel]) -> None:
        keys = {parcel.key for parcel in parcels}
        for task in self._tasks.values():
            if task.arriving and task.key in keys:
                if task.unique and self._holder(task.unique.key):
                    task.unique = None
                task.key, task.arriving = "", False

    @staticmethod
    def _parcel(id: str, task: _Task) -> Parcel:
        state = task.aside or State.READY
        return Parcel(task.key, id, state, task.data, task.priority, task.due, task.attempts, task.crashes,
                      task.reason, task.destination, unique=task.unique)  # fmt: skip


class MemoryFeed:
    """Implement ``base.Feed`` by reading all tasks each time."""

    def __init__(self, tasks: dict[str, _Task], switch: Callable[[], Switches], clock: Clock) -> None:
        self._tasks = tasks
        self._switch = switch
        self._clock = clock
        self._out: set[str] = set()

    def fileno(self) -> int | None:
        return None

    def refresh(self) -> FeedState:
        due, paused = self._due(), self._switch().paused
        waiting = [task.due for task in self._tasks.values() if not task.aside and not task.key]
        return FeedState(
            more=False,
            head=due[0] if due and not paused else None,
            ready=len(due),
            idle=not self._out and (paused or not due),
            paused=paused,
            available=True,
            next_due=min(waiting, default=None),
        )

    def take(self, limit: int) -> list[Ticket]:
        taken = [] if self._switch().paused else self._due()[:limit]
        self._out.update(ticket.ref for ticket in taken)
        return taken

    def release(self, tickets: Iterable[Ticket]) -> None:
        self._out.difference_update(ticket.ref for ticket in tickets)

    def done(self, ref: str, until: float | None) -> None:
        self._out.discard(ref)

    def recheck(self, refs: Iterable[str] | None = None) -> None:
        self._out.difference_update(list(self._out) if refs is None else refs)

    def close(self) -> None:
        """Do nothing, because no resource is held."""

    def _due(self) -> list[Ticket]:
        now = self._clock()
        due = [
            (task.ticket(ref), task.number)
            for ref, task in self._tasks.items()
            if not task.aside and not task.running and not task.key and task.due <= now and ref not in self._out
        ]
        return [ticket for ticket, _ in sorted(due, key=lambda item: (item[0].rank, item[0].due, item[1]))]
