"""Listings of tasks, which read the streams without consuming them.

Single tasks are read from the stream's leader, so they are current. Listings are read in pages from any replica, which
may lag behind by moments.
"""

import heapq
import itertools
import math
from collections import Counter
from collections.abc import Iterator
from typing import Literal

from ... import wire
from ...codec import task_label
from ...errors import Damaged
from ...message import Entry, Envelope, State
from ..base import UNNUMBERED, Clock
from ..depot import MOVING
from ..page import FEW, ORDER, Continuation, Counts, Page, TaskPosition, TaskQuery, page_of_task
from . import runs
from .cluster import Cluster
from .jetstream import JetStream
from .names import ARRIVING, CORRUPT, DEAD, LATER, LEAVING, NOW, SOON, is_piece, on_the_way
from .runs import Run
from .stored import Stored

__all__ = ["Listing"]

_FEWEST, _MOST = 5_000, 100_000  # tasks held in memory
_DIGITS = 20  # of a sequence number, at most
_ASIDE = {State.DEAD: DEAD, State.CORRUPT: CORRUPT}


class Listing:
    """The tasks of a spooler as entries."""

    def __init__(self, place: Cluster, clock: Clock) -> None:
        self._place = place
        self._clock = clock
        self._continuation = Continuation()

    # --- single tasks

    def find(self, id: str) -> tuple[Entry, Stored] | None:
        """Return a task and its message, or None if it does not exist."""
        token = self._place.token(id)
        return None if token is None else self._place.call(lambda stream: self._find(stream, token))

    def _find(self, stream: JetStream, token: str) -> tuple[Entry, Stored] | None:
        names = self._place.names
        record = stream.last(names.state, names.records(token))  # first: see ``Tasks.look``
        run = Run.of(record) if record else None
        stored = stream.last(names.tasks, names.task("*", "*", token))
        if stored is not None and names.passing(stored.subject) != ARRIVING and not (run and run.voids(stored)):
            held = run is not None and run.is_of(stored) and runs.is_held(stream, names, run)
            return self._entry(stored, run, held), stored
        stored = stream.last(names.aside, names.task("*", "*", token))
        if stored is None or names.passing(stored.subject) == ARRIVING or (run and run.voids(stored)):
            return None
        return self._entry(stored, None, False), stored

    def matching(self, piece: str) -> list[str]:
        """Return the ids of a few tasks whose tokens begin or end with this piece."""
        return self._place.call(lambda stream: self._matching(stream, piece))

    def _matching(self, stream: JetStream, piece: str) -> list[str]:
        names, found = self._place.names, dict[str, None]()
        for name in (names.tasks, names.aside):
            for subject in stream.subjects(name, names.task("*", "*", "*")):
                token = names.place(subject)[2]
                if is_piece(piece, token) and names.passing(subject) != ARRIVING:
                    found[f"{self._place.name}/{token}"] = None
                    if len(found) == FEW:
                        return list(found)
        return list(found)

    # --- listings

    def page(self, query: TaskQuery, after: str, limit: int) -> Page:
        """Return tasks, as ``base.Backend.page``. A page of deferred tasks or dead letters reads all of them, because
        streams have no order by due time."""
        start = TaskPosition.load(after)
        if query.id:
            return page_of_task(query, self._one(query.id))
        if query.piece:
            found = filter(None, map(self.find, self.matching(query.piece)))
            return Page(tuple(entry for entry, _ in found if query.wants(entry)))
        return self._continuation.page(query, after, limit, lambda: self._tasks(query.states, start, limit))

    def _one(self, id: str) -> tuple[Entry, Envelope | None] | None:
        if (found := self.find(id)) is None:
            return None
        entry, stored = found
        return entry, Envelope(stored.data, entry.priority, entry.due, entry.task)

    def _tasks(
        self, states: frozenset[State], start: TaskPosition | None, limit: int
    ) -> Iterator[tuple[Entry, TaskPosition]]:
        """Yield the tasks after a position.

        :param limit: how many tasks are wanted.
        """
        now = start.now if start else self._clock()
        known = self._runs() if states & {State.RUNNING, State.READY, State.DEFERRED} else {}
        for section, state in enumerate(ORDER):
            if state not in states or (start and section < start.section):
                continue
            at = start if start and section == start.section else None
            if state is State.READY:
                for rank in self._ranks():
                    if at is None or _number(rank) >= at.rank:
                        after = at if at and _number(rank) == at.rank else None
                        first = TaskPosition(now, section, _number(rank), -math.inf, "0/")
                        yield from self._ready(rank, known, after or first)
                continue
            number = max(limit, _FEWEST)
            while True:  # only the first ones are held in memory; the next ones are read again
                found = ((_position(entry, now, section), entry) for entry in self._in(state, known, now))
                later = (one for one in found if at is None or one[0].key > at.key)
                held = heapq.nsmallest(number, later, key=lambda one: one[0].key)
                yield from ((entry, position) for position, entry in held)
                if len(held) < number:
                    break
                at, number = held[-1][0], _MOST

    def _in(self, state: State, known: "_Known", now: float) -> Iterator[Entry]:
        """Yield the tasks in a state other than ready, in any order."""
        if state is State.RUNNING:
            yield from (self._entry(stored, run, True, now) for run, stored, held in known.values() if held)
        elif state is State.DEFERRED:
            waiting = (one for kind in (SOON, LATER, LEAVING) for one in self._waiting(kind, "*", known, now))
            yield from (entry for _, entry in waiting if entry.state is State.DEFERRED)
        else:
            for kind in (_ASIDE[state], on_the_way(LEAVING, _ASIDE[state])):
                read = self._read(self._place.names.aside, kind, "*")
                yield from (self._entry(stored, None, False, now) for stored in read)

    def _ready(self, rank: str, known: "_Known", position: TaskPosition) -> Iterator[tuple[Entry, TaskPosition]]:
        """Yield the ready tasks of one priority after a position.

        Tasks that never waited are stored by due time; the others are few. A position has the number of the last of the
        first kind, and due time and id of the last of the others.
        """
        passed, _, last = position.id.partition("/")
        found = (one for kind in (SOON, LEAVING) for one in self._waiting(kind, rank, known, position.now))
        waited = [(_order(entry), 0, entry) for _, entry in found if entry.state is State.READY]
        waited = [one for one in waited if one[0][1:] > (position.due, last)]
        start = int(passed) + 1 if passed.isdigit() and len(passed) < _DIGITS else 1
        direct = self._waiting(NOW, rank, known, position.now, start)
        stored = ((_order(entry), seq, entry) for seq, entry in direct)
        for _, seq, entry in heapq.merge(sorted(waited), stored, key=lambda one: one[0]):
            if seq:
                passed = str(seq)
            else:
                position, last = position._replace(due=entry.due), entry.id
            yield entry, position._replace(id=f"{passed}/{last}")

    def _waiting(
        self, kind: str, rank: str, known: "_Known", now: float, start: int = 1
    ) -> Iterator[tuple[int, Entry]]:
        """Yield the tasks that do not run, with their sequence numbers."""
        for stored in self._read(self._place.names.tasks, kind, rank, start):
            run, message, held = known.get(self._place.names.place(stored.subject)[2], (None, None, False))
            if not (held and message and message.seq == stored.seq):
                yield stored.seq, self._entry(stored, run, False, now)

    def _read(self, stream: str, kind: str, rank: str, start: int = 1) -> Iterator[Stored]:
        subject = self._place.names.task(kind, rank, "*")
        while page := self._page(stream, subject, start):
            yield from page
            start = page[-1].seq + 1

    def _page(self, name: str, subject: str, start: int) -> list[Stored]:
        return self._place.call(lambda stream: stream.page(name, subject, start))

    def _ranks(self) -> list[str]:
        names = self._place.names
        found = self._place.call(lambda stream: stream.consumers(names.tasks))
        ranks = [name.partition("-")[2] for name in found if name.startswith("rank-")]
        return sorted(ranks, key=_number)

    def _runs(self) -> "_Known":
        """Return the valid records of runs by token, each with its task and whether the task is still running."""
        return self._place.call(self._known)

    def _known(self, stream: JetStream) -> "_Known":
        names = self._place.names
        found: _Known = {}
        for record in stream.read(names.state, names.run("*")):
            run = Run.of(record)
            if run is not None:
                stored = stream.last(names.tasks, names.task("*", "*", run.token))
                if stored is not None and run.is_of(stored):
                    found[run.token] = run, stored, runs.is_held(stream, names, run)
        return found

    def counts(self, by: Literal["state", "label"]) -> Counts:
        """Return the number of tasks in each state or of each label."""
        if by == "label":
            return self._labels()
        known, now = self._runs(), self._clock()
        running = sum(held for _, _, held in known.values())
        held = {f"{self._place.name}/{token}" for token, (_, _, held) in known.items() if held}
        found = [
            (entry.state, entry.due, entry.id)
            for kind in (SOON, LEAVING)
            for _, entry in self._waiting(kind, "*", {}, now)
        ]
        deferred = sum(state is State.DEFERRED for state, _, _ in found)
        waited = [due for state, due, id in found if state is State.READY and id not in held]
        # Tasks that were never deferred are in the order of their due times.
        waited += (entry.due for _, entry in itertools.islice(self._waiting(NOW, "*", known, now), 1))
        later, total = self._place.call(self._totals)
        counts = dict[str, int](dict.fromkeys(State, 0))
        counts |= {State.RUNNING: running, State.DEFERRED: deferred + later}
        counts[State.READY] = max(total - later - deferred - running, 0)
        for state, kind in _ASIDE.items():
            for one in (kind, on_the_way(LEAVING, kind)):
                counts[state] += self._place.call(lambda stream, one=one: self._number(stream, one))  # type: ignore[misc]
        return Counts(counts, min(waited, default=None) if counts[State.READY] else None)

    def _labels(self) -> Counts:
        names = self._place.names
        kinds = [(names.tasks, kind) for kind in (NOW, SOON, LATER, LEAVING)]
        kinds += [(names.aside, one) for kind in _ASIDE.values() for one in (kind, on_the_way(LEAVING, kind))]
        return Counts(dict(Counter(_label(one) for name, kind in kinds for one in self._read(name, kind, "*"))))

    def _totals(self, stream: JetStream) -> tuple[int, int]:
        names = self._place.names
        arriving = self._number(stream, ARRIVING)
        info = stream.info(names.tasks, count=names.task(LATER, "*", "*"))
        return (info.get("total", 0), info["state"]["messages"] - arriving) if info else (0, 0)

    def _number(self, stream: JetStream, kind: str) -> int:
        names = self._place.names
        info = stream.info(names.stream(kind), count=names.task(kind, "*", "*"))
        return int(info.get("total", 0)) if info else 0

    def _entry(self, stored: Stored, run: Run | None, held: bool, now: float | None = None) -> Entry:
        kind, priority, token = self._place.names.place(stored.subject)
        facts = stored.facts
        if run is not None and run.is_of(stored):  # otherwise the record belongs to an earlier message of the task
            facts = facts._replace(attempts=run.attempts, due=facts.due if held else max(facts.due, run.until))
        # A task sent to run at once is not early, even if its sender's clock is ahead. A task that the server holds
        # back is early even past its due time, because it cannot run before the server delivers it.
        now = self._clock() if now is None else now
        early = kind == LATER or (facts.due > now and (kind != NOW or facts.due > stored.facts.due))
        state = State.RUNNING if held else State.DEFERRED if early else State.READY
        aside = kind.removeprefix(f"{LEAVING}-")
        if aside in (DEAD, CORRUPT):
            state = State(aside)
        if kind.startswith(LEAVING):
            facts = facts._replace(reason=MOVING)
        id = f"{self._place.name}/{token}"
        return Entry(
            id,
            state,
            self._place.name,
            _label(stored),
            priority,
            facts.due,
            facts.attempts,
            len(stored.data),
            facts.reason,
        )


_Known = dict[str, tuple[Run, Stored, bool]]


def _label(stored: Stored) -> str:
    try:
        return task_label(wire.load_vars(stored.data).vars)
    except Damaged:
        return "?"


def _number(rank: str) -> int:
    """Return the sort key of a rank in a subject."""
    return int(rank) if rank.isdigit() else UNNUMBERED


def _order(entry: Entry) -> tuple[int, float, str]:
    return (UNNUMBERED if entry.priority is None else entry.priority, entry.due, entry.id)


def _position(entry: Entry, now: float, section: int) -> TaskPosition:
    return TaskPosition(now, section, *_order(entry))
