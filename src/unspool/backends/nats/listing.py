"""Listings of tasks, which read the streams without consuming them.

Single tasks are read from the stream's leader, so they are current. Listings are read in pages from any replica, which
may lag behind by moments.
"""

import heapq
import itertools
from collections.abc import Iterator

from ... import wire
from ...codec import task_label
from ...errors import Damaged
from ...message import Entry, State
from ..base import UNNUMBERED, Clock, Summary
from ..depot import MOVING
from . import runs
from .cluster import Cluster
from .jetstream import JetStream
from .names import ARRIVING, CORRUPT, DEAD, LATER, LEAVING, NOW, SOON, is_piece, on_the_way
from .runs import Run
from .stored import Stored

__all__ = ["Listing"]

_MATCHES = 10
_ASIDE = {State.DEAD: DEAD, State.CORRUPT: CORRUPT}


class Listing:
    """The tasks of a spooler as entries."""

    def __init__(self, place: Cluster, clock: Clock) -> None:
        self._place = place
        self._clock = clock

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
                token = subject.rpartition(".")[2]
                if is_piece(piece, token) and names.passing(subject) != ARRIVING:
                    found[f"{self._place.name}/{token}"] = None
                    if len(found) == _MATCHES:
                        return list(found)
        return list(found)

    # --- listings

    def entries(self, states: frozenset[State], limit: int | None) -> Iterator[Entry]:
        """Yield running tasks, then ready ones in order of execution, then deferred ones by due time, then dead
        letters."""
        left = limit
        for entry in self._entries(states):
            if left is not None:
                if left <= 0:
                    return
                left -= 1
            yield entry

    def _entries(self, states: frozenset[State]) -> Iterator[Entry]:
        known = self._runs() if states & {State.RUNNING, State.READY, State.DEFERRED} else {}
        if State.RUNNING in states:
            yield from sorted(
                (self._entry(stored, run, True) for run, stored, held in known.values() if held), key=_order
            )
        if State.READY in states:
            for rank in self._ranks():
                yield from self._ready(rank, known)
        if State.DEFERRED in states:
            found = [self._waiting(kind, "*", known) for kind in (SOON, LATER, LEAVING)]
            late = (entry for entries in found for entry in entries if entry.state is State.DEFERRED)
            yield from sorted(late, key=lambda entry: (entry.due, _order(entry)))
        for state, kind in _ASIDE.items():
            if state in states:
                kinds = (kind, on_the_way(LEAVING, kind))
                read = (one for kind in kinds for one in self._read(self._place.names.aside, kind, "*"))
                aside = (self._entry(one, None, False) for one in read)
                yield from sorted(aside, key=_order)

    def _ready(self, rank: str, known: "_Known") -> Iterator[Entry]:
        """Yield the ready tasks of one priority. Tasks that never waited are stored by due time; the others are few."""
        found = (entry for kind in (SOON, LEAVING) for entry in self._waiting(kind, rank, known))
        waited = [entry for entry in found if entry.state is State.READY]
        return heapq.merge(sorted(waited, key=_order), self._waiting(NOW, rank, known), key=_order)

    def _waiting(self, kind: str, rank: str, known: "_Known") -> Iterator[Entry]:
        for stored in self._read(self._place.names.tasks, kind, rank):
            run, message, held = known.get(stored.subject.rpartition(".")[2], (None, None, False))
            if not (held and message and message.seq == stored.seq):
                yield self._entry(stored, run, False)

    def _read(self, stream: str, kind: str, rank: str) -> Iterator[Stored]:
        subject, start = self._place.names.task(kind, rank, "*"), 1
        while page := self._page(stream, subject, start):
            yield from page
            start = page[-1].seq + 1

    def _page(self, name: str, subject: str, start: int) -> list[Stored]:
        return self._place.call(lambda stream: stream.page(name, subject, start))

    def _ranks(self) -> list[str]:
        names = self._place.names
        found = self._place.call(lambda stream: stream.consumers(names.tasks))
        ranks = [name.partition("-")[2] for name in found if name.startswith("rank-")]
        return sorted(ranks, key=lambda rank: int(rank) if rank.isdigit() else UNNUMBERED)

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

    def summary(self) -> Summary:
        """Return the number of tasks in each state, and the earliest due time of the ready ones."""
        known = self._runs()
        running = sum(held for _, _, held in known.values())
        held = {f"{self._place.name}/{token}" for token, (_, _, held) in known.items() if held}
        found = [
            (entry.state, entry.due, entry.id) for kind in (SOON, LEAVING) for entry in self._waiting(kind, "*", {})
        ]
        deferred = sum(state is State.DEFERRED for state, _, _ in found)
        waited = [due for state, due, id in found if state is State.READY and id not in held]
        # Tasks that were never deferred are in the order of their due times.
        waited += (entry.due for entry in itertools.islice(self._waiting(NOW, "*", known), 1))
        later, total = self._place.call(self._totals)
        counts = dict.fromkeys(State, 0)
        counts |= {State.RUNNING: running, State.DEFERRED: deferred + later}
        counts[State.READY] = max(total - later - deferred - running, 0)
        for state, kind in _ASIDE.items():
            for one in (kind, on_the_way(LEAVING, kind)):
                counts[state] += self._place.call(lambda stream, one=one: self._number(stream, one))  # type: ignore[misc]
        return Summary(counts, min(waited, default=None) if counts[State.READY] else None)

    def _totals(self, stream: JetStream) -> tuple[int, int]:
        names = self._place.names
        arriving = self._number(stream, ARRIVING)
        info = stream.info(names.tasks, count=names.task(LATER, "*", "*"))
        return (info.get("total", 0), info["state"]["messages"] - arriving) if info else (0, 0)

    def _number(self, stream: JetStream, kind: str) -> int:
        names = self._place.names
        info = stream.info(names.stream(kind), count=names.task(kind, "*", "*"))
        return int(info.get("total", 0)) if info else 0

    def _entry(self, stored: Stored, run: Run | None, held: bool) -> Entry:
        kind, priority, token = self._place.names.place(stored.subject)
        facts = stored.facts
        if run is not None and run.is_of(stored):  # otherwise the record belongs to an earlier message of the task
            facts = facts._replace(attempts=run.attempts, due=facts.due if held else max(facts.due, run.until))
        # A task sent to run at once is not early, even if its sender's clock is ahead. A task that the server holds
        # back is early even past its due time, because it cannot run before the server delivers it.
        early = kind == LATER or (facts.due > self._clock() and (kind != NOW or facts.due > stored.facts.due))
        state = State.RUNNING if held else State.DEFERRED if early else State.READY
        aside = kind.removeprefix(f"{LEAVING}-")
        if aside in (DEAD, CORRUPT):
            state = State(aside)
        if kind.startswith(LEAVING):
            facts = facts._replace(reason=MOVING)
        try:
            label = task_label(wire.load_vars(stored.data).vars)
        except Damaged:
            label = "?"
        id = f"{self._place.name}/{token}"
        return Entry(
            id, state, self._place.name, label, priority, facts.due, facts.attempts, len(stored.data), facts.reason
        )


_Known = dict[str, tuple[Run, Stored, bool]]


def _order(entry: Entry) -> tuple[int, float, str]:
    return (UNNUMBERED if entry.priority is None else entry.priority, entry.due, entry.id)
