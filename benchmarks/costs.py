"""The cost of each feature that uWSGI's spooler does not have: the same drain with one of them turned off."""

import sys
from collections.abc import Callable

from .filesystem import Ground, Place
from .measures import Measured
from .unspool_side import Unspool
from .without import THINGS

__all__ = ["measure_costs"]


class _Without(Unspool):
    """unspool with some features turned off."""

    def __init__(self, things: str) -> None:
        super().__init__("relaxed")
        self._lead = [sys.executable, "-m", "benchmarks.without", things]

    def calling(self, place: Place) -> list[str]:
        return [*self._lead, "send"]

    def working(self, place: Place, workers: int) -> list[str]:
        return [*self._lead, *super().working(place, workers)[1:]]


def measure_costs(ground: Ground, runs: int, tasks: int, progress: Callable[[str], None]) -> list[Measured]:
    """Measure a row for each feature, and one with all of them turned off. Runs alternate."""
    everything = ",".join(THINGS)
    systems = {"nothing": Unspool("relaxed")} | {thing: _Without(thing) for thing in (*THINGS, everything)}
    rows = {thing: Measured(f"drain, 1 worker, without {thing}", "/s", "drain, 1 worker") for thing in systems}
    for run in range(1, runs + 1):
        for thing, system in systems.items():
            progress(f"without {thing}, run {run} of {runs}")
            rows[thing].runs.setdefault(Unspool.name, []).append(system.drain(ground, tasks, 1))
    return list(rows.values())
