"""What is measured, and in which order: the runs of each measure alternate between the systems, so that changes of the
machine affect all of them.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from . import bare
from .filesystem import Ground
from .system import System
from .unspool_side import Unspool
from .uwsgi_side import Uwsgi

__all__ = ["BARE", "BATCHES", "CALLERS", "WORKERS", "Measured", "Sizes", "measure", "measures"]

BARE = "bare calls"
BATCHES = (10, 100, 1_000)
CALLERS = (4, 16)
WORKERS = (1, 2, 4)

Take = Callable[[Ground], Mapping[str, float]]
"""Takes one measurement: a figure for each row, here the key that follows the measure's name."""


class Sizes(NamedTuple):
    """The amount of work in one measurement.

    :param tasks: empty tasks that are sent or run.
    :param synced: tasks that are sent with a sync each.
    :param calls: tasks that are called one at a time.
    """

    tasks: int
    synced: int
    calls: int


class Measure(NamedTuple):
    """Some rows of the table.

    :param name: the name of the measure. The name of a row consists of it and the name of the figure.
    :param takes: the function that measures, by system.
    :param compare: the row of uWSGI to compare with, if uWSGI has no such figure.
    """

    name: str
    unit: str
    takes: Mapping[str, Take]
    compare: str | None = None


@dataclass
class Measured:
    """One row: the figures of all runs, by system.

    :param compare: the row that has uWSGI's figures, if not this one.
    """

    name: str
    unit: str
    compare: str | None
    runs: dict[str, list[float]] = field(default_factory=dict)


def measures(sizes: Sizes) -> list[Measure]:
    """Return all measures."""
    tasks, synced, calls = sizes
    relaxed, full, uwsgi = Unspool("relaxed"), Unspool("full"), Uwsgi()
    plain = Unspool("relaxed", {"UNSPOOL_HISTORY_LIMIT": "0"})
    alone = "enqueue, relaxed"
    return [
        Measure(alone, "/s", {
            Unspool.name: _rate(lambda on: relaxed.enqueue(on, tasks)),
            Uwsgi.name: _rate(lambda on: uwsgi.enqueue(on, tasks)),
            BARE: _rate(lambda on: bare.enqueue(on, tasks, durable=False)),
        }),
        *(Measure(f"enqueue, relaxed, {batch:,} at a time", "/s", {
            Unspool.name: _rate(lambda on, batch=batch: relaxed.enqueue(on, tasks, batch)),
            BARE: _rate(lambda on, batch=batch: bare.enqueue(on, tasks, batch, durable=False)),
        }, alone) for batch in BATCHES),
        Measure("enqueue, full", "/s", {
            Unspool.name: _rate(lambda on: full.enqueue(on, synced)),
            BARE: _rate(lambda on: bare.enqueue(on, synced, durable=True)),
        }),
        *(Measure(f"enqueue, full, {batch:,} at a time", "/s", {
            Unspool.name: _rate(lambda on, batch=batch: full.enqueue(on, tasks, batch)),
            BARE: _rate(lambda on, batch=batch: bare.enqueue(on, tasks, batch, durable=True)),
        }) for batch in BATCHES),
        *(Measure(f"enqueue, full, {count} threads at once", "/s", {
            Unspool.name: _rate(lambda on, count=count: full.enqueue(on, synced, threads=count)),
        }) for count in CALLERS),
        *(Measure(f"enqueue, full, {count} processes at once", "/s", {
            Unspool.name: _rate(lambda on, count=count: full.enqueue_at_once(on, synced, count)),
        }) for count in CALLERS),
        *(Measure(f"drain, {count} worker{'s' * (count > 1)}", "/s", _drains(count, tasks, relaxed, uwsgi))
          for count in WORKERS),
        Measure("drain, 1 worker, no history", "/s", _drains(1, tasks, plain), "drain, 1 worker"),
        Measure("idle latency, relaxed", "ms", _latencies(calls, relaxed, uwsgi)),
        Measure("idle latency, full", "ms", _latencies(calls, full), "idle latency, relaxed"),
    ]  # fmt: skip


def measure(ground: Ground, what: Measure, runs: int, progress: Callable[[str], None]) -> list[Measured]:
    """Return the rows of one measure.

    :param progress: called with the name of the current measurement.
    """
    rows: dict[str, Measured] = {}
    for run in range(1, runs + 1):
        for system, take in what.takes.items():
            progress(f"{what.name}: {system}, run {run} of {runs}")
            for suffix, figure in take(ground).items():
                compare = f"{what.compare}{suffix}" if what.compare else None
                row = rows.setdefault(suffix, Measured(f"{what.name}{suffix}", what.unit, compare))
                row.runs.setdefault(system, []).append(figure)
    return list(rows.values())


def _rate(take: Callable[[Ground], float]) -> Take:
    return lambda ground: {"": take(ground)}


def _drains(workers: int, tasks: int, *systems: System) -> dict[str, Take]:
    def take(one: System) -> Take:
        return _rate(lambda ground: one.drain(ground, tasks, workers))

    return {one.name: take(one) for one in systems}


def _latencies(calls: int, *systems: System) -> dict[str, Take]:
    def take(one: System) -> Take:
        def figures(ground: Ground) -> Mapping[str, float]:
            found = one.latency(ground, calls)
            return {f", {name}": figure for name, figure in found._asdict().items()}

        return figures

    return {one.name: take(one) for one in systems}
