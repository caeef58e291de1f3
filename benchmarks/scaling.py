"""``make bench-scaling``: the cost of a task in each part of a backend, and what the model predicts from it.

The rates with 1, 2 and 4 workers are measured too, on the available processors. The comparison with the model shows how
far it can be trusted. ``docs/scaling.md`` explains this.
"""

import argparse
import os
import signal
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

from . import comparison, machine, witness
from .filesystem import Ground, ground
from .model import Demands, Machines, bounds, throughput
from .processes import running, wait_until
from .servers import peers
from .servers.grounds import Nats, Postgres
from .system import System
from .unspool_side import Unspool

_RESULTS = Path(__file__).parent / "results"
_TIMEOUT = 300.0
_FILL = 500
_WORKERS = (1, 2, 4)
_CORES = 8  # of a host, and of a server, in what is beyond this machine
_ROUND_TRIP = 0.0002  # seconds, within a data centre
_TRIPS = {"directory": 0.0, "PostgreSQL": 1.0, "NATS JetStream": 1.0}  # that a worker waits for between two tasks
_SHAPES = ((1, 1), (1, 4), (1, 8), (2, 8), (4, 8), (8, 8), (20, 8))  # hosts, workers on each


class Taken(NamedTuple):
    """One drain.

    :param rate: tasks per second.
    :param demands: those of one task.
    """

    rate: float
    demands: Demands


def main() -> int:
    """Measure, print and save. Return the exit status."""
    options = _options()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))
    console = Console(width=None if sys.stdout.isatty() else 150, highlight=False)
    saved: dict[str, object] = {"tasks": options.tasks}
    with ground(options.tasks + 400_000) as place:
        saved["machine"] = facts = machine.describe(place)
        comparison.show_facts(console, facts)
        for name, measure in _grounds(place, options.tasks):
            if options.only not in name:
                continue
            found = {workers: measure(workers) for workers in _WORKERS}
            demands = found[1].demands._replace(trips=_TRIPS[name])
            saved[name] = {
                "demands": demands._asdict(),
                "measured": {workers: taken.rate for workers, taken in found.items()},
                "modelled": _show(console, name, demands, {workers: taken.rate for workers, taken in found.items()}),
            }
    path = options.save or _RESULTS / f"scaling-{datetime.now(UTC):%Y-%m-%dT%H%M}.json"
    comparison.save(path, saved)
    console.print(f"saved to {path}", soft_wrap=True)
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scaling", description=__doc__)
    parser.add_argument("--tasks", type=int, default=10_000, help="run in each drain (default 10000)")
    parser.add_argument("--only", default="", metavar="WORD", help="measure only the ground with this in its name")
    parser.add_argument("--save", type=Path, help="the JSON file (default benchmarks/results/scaling-<date>.json)")
    options = parser.parse_args()
    if options.tasks < 1_000:
        parser.error("--tasks is too small to time")
    return options


def _grounds(place: Ground, tasks: int) -> Iterable[tuple[str, Callable[[int], Taken]]]:
    directory = Unspool("full")
    yield "directory", lambda workers: _drain(directory, place, tasks, workers, list)
    for make in (Postgres, Nats):
        with closing(make(place)) as server:
            system = peers.Unspool(server)
            on = server.on(system)
            yield make.name, lambda workers, s=system, o=on: _drain(s, o, tasks, workers, s.server.pids)


def _drain(system: System, on: Ground, tasks: int, workers: int, server: Callable[[], Sequence[int]]) -> Taken:
    """Drain the waiting tasks, and measure the processor time from a fifth of the tasks to the end, without imports."""
    with on.place() as place:
        system._fill(place, tasks, _FILL)
        on.settle()
        witnessed = str(place.scratch)
        log = place.scratch / "log"
        env = {witness.DIRECTORY: witnessed, **system.environment(place)}
        with running(system.working(place, workers), env, log) as process:
            wait_until(lambda: witness.tally(witnessed).runs >= tasks // 5, process, _TIMEOUT)
            begun, before = witness.tally(witnessed), _times(process.pids, server())
            wait_until(lambda: witness.tally(witnessed).runs >= tasks * 9 // 10, process, _TIMEOUT)
            ended, after = witness.tally(witnessed), _times(process.pids, server())
    ran = ended.runs - begun.runs
    spent = [
        sum(now.values()) - sum(then.get(pid, 0.0) for pid in now) for then, now in zip(before, after, strict=True)
    ]
    supervisor, worker, served = (seconds / ran for seconds in spent)
    rate = ran / (ended.last - begun.last) * 1e9
    return Taken(rate, Demands(worker, supervisor, served, 0.0))


def _times(pids: Sequence[int], server: Sequence[int]) -> tuple[dict[int, float], ...]:
    """Return the processor seconds of each process: the supervisor, its workers, the server's."""
    return tuple({pid: _seconds(pid) for pid in part} for part in (pids[:1], pids[1:], server))


def _seconds(pid: int) -> float:
    total = 0
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/schedstat", encoding="ascii") as file:
                total += int(file.read().split()[0])
    except OSError:  # it has ended
        pass
    return total / 1e9


def _show(console: Console, name: str, demands: Demands, rates: dict[int, float]) -> list[dict[str, object]]:
    micro = {part: seconds * 1e6 for part, seconds in demands._asdict().items() if part != "trips"}
    shown = ", ".join(f"{part} {value:.0f} µs" for part, value in micro.items())
    table = Table(title=f"{name}: a task takes of the processors: {shown}")
    for heading in ("hosts", "workers on each", "server", "model, a second", "measured", "what ends it"):
        table.add_column(heading, justify="right")
    cores = os.cpu_count() or 1
    shapes = [(Machines(1, workers, cores, 0), rates.get(workers)) for workers in rates]
    local = name == "directory"
    for hosts, workers in _SHAPES:
        if not local:
            shapes.append((Machines(hosts, workers, _CORES, _CORES, _ROUND_TRIP), None))
        elif hosts == 1:
            shapes.append((Machines(hosts, workers, _CORES, 0), None))
    kept: list[dict[str, object]] = []
    for machines, measured in shapes:
        modelled, ends = throughput(demands, machines), bounds(demands, machines)
        last = min(ends, key=lambda part: ends[part])
        where = f"{machines.server_cores} cores" if machines.server_cores else f"the same {machines.cores} cores"
        table.add_row(
            str(machines.hosts), str(machines.workers), where, f"{modelled:,.0f}",
            f"{measured:,.0f}" if measured else "", f"{last} at {ends[last]:,.0f}",
        )  # fmt: skip
        kept.append({**machines._asdict(), "model": modelled, "measured": measured, "bounds": ends})
    console.print(table)
    return kept


if __name__ == "__main__":
    sys.exit(main())
