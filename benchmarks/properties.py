"""Other properties of unspool: even work, no activity when idle, little memory, many coroutines at once."""

import json
import math
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median

from . import witness
from .filesystem import Ground, Place
from .measures import Measured
from .processes import Running, running, wait_until
from .unspool_side import Unspool

__all__ = ["measure_properties"]

_TIMEOUT = 120.0
_UNEVEN = (0.001, 0.2)  # seconds that a task takes, all magnitudes alike
_SENDER = "import json, sys; from benchmarks.app_unspool import {task}; {task}.enqueue_many(json.load(sys.stdin))"


def measure_properties(ground: Ground, runs: int, idle: float, progress: Callable[[str], None]) -> list[Measured]:
    """Measure rows of unspool alone. The name of each row has its limit.

    :param idle: seconds for which an idle worker is watched.
    """
    progress("uneven work")
    rows = [_row("uneven work, 2 workers: time as a multiple of the least possible", "", [_uneven(ground)])]
    progress(f"idle for {idle:g} s")
    found = _idle(ground, idle)
    rows += [_row(f"idle for {idle:g} s: {name}", unit, [figure]) for (name, unit), figure in found.items()]
    progress("import")
    rows.append(_row("import unspool (at most 40)", "ms", [_import() for _ in range(max(runs, 5))]))
    progress("coroutines")
    rows.append(_row("10,000 coroutines of 0.1 s, 1,000 at once (about 1)", "s", [_coroutines(ground)]))
    return rows


def _row(name: str, unit: str, figures: list[float]) -> Measured:
    return Measured(name, unit, None, {Unspool.name: figures})


def _uneven(ground: Ground) -> float:
    low, high = map(math.log, _UNEVEN)
    seconds = [math.exp(random.uniform(low, high)) for _ in range(1_000)]
    with ground.place() as place:
        took = _work(place, "nap", [[one] for one in seconds], {"--processes": "2"})
    return took / (sum(seconds) / 2)


def _coroutines(ground: Ground) -> float:
    with ground.place() as place:
        return _work(place, "rest", [[0.1]] * 10_000, {"--processes": "1", "--concurrency": "1000"})


def _work(place: Place, task: str, calls: list[list[float]], options: Mapping[str, str]) -> float:
    """Return the seconds from the start of the first task to that of the last one."""
    unspool = Unspool("relaxed")
    env = {witness.DIRECTORY: str(place.scratch), **unspool.environment(place)}
    subprocess.run(
        [sys.executable, "-c", _SENDER.format(task=task)],
        input=json.dumps(calls),
        text=True,
        env={**os.environ, **env, "PYTHONPATH": str(Path(__file__).resolve().parent.parent)},
        check=True,
    )
    command = unspool.working(place, 1)
    for name, value in options.items():
        command += [name, value]
    with running(command, env, place.scratch / "log") as process:
        wait_until(lambda: witness.tally(str(place.scratch)).runs >= len(calls), process, _TIMEOUT)
    found = witness.tally(str(place.scratch))
    return (found.last - found.first) / 1e9


def _idle(ground: Ground, seconds: float) -> dict[tuple[str, str], float]:
    with ground.place() as place:
        unspool = Unspool("relaxed")
        env = unspool.environment(place)
        with running(unspool.working(place, 1), env, place.scratch / "log") as process:
            wait_until(lambda: len(process.pids) >= 3 and not _busy(process), process, _TIMEOUT)
            before = _wakes(process)
            time.sleep(seconds)
            woken = _wakes(process) - before
            return {
                ("wake-ups of all processes (none)", ""): float(woken),
                ("memory of the worker's own (at most 25)", "MB"): _own(process.pids[-1]),
            }


def _busy(process: Running) -> bool:
    """Return whether anything happens within a second."""
    before = _wakes(process)
    time.sleep(1.0)
    return _wakes(process) != before


def _wakes(process: Running) -> int:
    total = 0
    for pid in process.pids:
        for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("voluntary_ctxt_switches"):
                total += int(line.split()[1])
    return total


def _own(pid: int) -> float:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_")) / 1000


def _import() -> float:
    """Return the milliseconds in addition to those of a Python that imports nothing, as the median of five."""
    return (_start("import unspool") - _start("pass")) * 1000


def _start(code: str) -> float:
    seconds = []
    for _ in range(5):
        begun = time.monotonic()
        subprocess.run([sys.executable, "-c", code], check=True)
        seconds.append(time.monotonic() - begun)
    return median(seconds)
