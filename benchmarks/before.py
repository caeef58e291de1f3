"""``make bench-before REV=…``: this tree and an earlier revision, measured alternately in one run.

Each revision is installed into a separate environment. Rates are of wall time. The processor time is that of all
processes of a measure, per task. A ratio is this tree's figure divided by the earlier one's.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import textwrap
import time
import venv
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

from .filesystem import Ground, Place, ground

_ROOT = Path(__file__).parent.parent
_APP = """
    import sys
    from unspool import Spooler

    @Spooler.task
    def noop(number):
        return True

    if __name__ == "__main__":
        count, batch = int(sys.argv[1]), int(sys.argv[2])
        if batch == 1:
            for number in range(count):
                noop(number)
        else:
            for start in range(0, count, batch):
                noop.enqueue_many([(number,) for number in range(start, start + batch)])
"""


class Run(NamedTuple):
    """The seconds that one run of a measure took."""

    wall: float
    processor: float


class Measure(NamedTuple):
    """A row: its name, its tasks, its preparation, and what is measured."""

    name: str
    tasks: int
    before: Sequence[str]
    command: Sequence[str]
    durability: str = "relaxed"


def main() -> int:
    """Measure and print. Return the exit status."""
    options = _options()
    console = Console(width=None if sys.stdout.isatty() else 130, highlight=False)
    with tempfile.TemporaryDirectory() as scratch, ground(4 * options.tasks, options.directory) as place:
        sides = {
            options.revision: _install(Path(scratch) / "before", options.revision),
            "this tree": _install(Path(scratch) / "now"),
        }
        console.print(f"on {place.kind}, journal: {place.journal}; {options.runs} runs, alternating")
        for measure in _measures(options.tasks):
            found: dict[str, list[Run]] = {side: [] for side in sides}
            for number in range(options.runs):
                order = list(sides) if number % 2 else list(sides)[::-1]
                for side in order:
                    found[side].append(_run(place, measure, sides[side]))
            _show(console, measure, found)
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.before", description=__doc__)
    parser.add_argument("revision", help="of git: the code before")
    parser.add_argument("--runs", type=int, default=7, help="of each measure on each side (default 7)")
    parser.add_argument("--tasks", type=int, default=20_000, help="in each (default 20000)")
    parser.add_argument("--directory", help="where to make the image; its disk is what is measured")
    return parser.parse_args()


def _measures(tasks: int) -> list[Measure]:
    singles, batches = ["app.py", str(tasks), "1"], ["app.py", str(tasks), "100"]
    few = max(tasks // 20, 100)
    drain = ["-m", "unspool", "run", "app", "--burst", "--log-level", "warning", "--processes"]
    return [
        Measure("enqueue", tasks, [], singles),
        Measure("enqueue by 100", tasks, [], batches),
        Measure("enqueue, full", few, [], ["app.py", str(few), "1"], "full"),
        Measure("drain, 1 worker", tasks, batches, [*drain, "1"]),
        Measure("drain, 2 workers", tasks, batches, [*drain, "2"]),
    ]


def _install(scratch: Path, revision: str = "") -> Path:
    """Return the interpreter of an environment with the revision; without a revision, with this tree."""
    source = _ROOT
    if revision:
        source = scratch / "source"
        source.mkdir(parents=True)
        archive = subprocess.run(["git", "archive", revision], cwd=_ROOT, check=True, capture_output=True)
        subprocess.run(["tar", "x"], cwd=source, input=archive.stdout, check=True)
    venv.create(scratch / "venv", with_pip=True)
    python = scratch / "venv" / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", source], check=True)
    return python


def _run(place: Ground, measure: Measure, python: Path) -> Run:
    with place.place() as at:
        (at.scratch / "app.py").write_text(textwrap.dedent(_APP))
        environment = _environment(at, measure)
        if measure.before:
            subprocess.run([python, *measure.before], cwd=at.scratch, env=environment, check=True)
            place.settle()
        return _timed(lambda: subprocess.run([python, *measure.command], cwd=at.scratch, env=environment, check=True))


def _environment(place: Place, measure: Measure) -> Mapping[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("UNSPOOL_")}
    own = {"UNSPOOL_SPOOLERS": str(place.spool), "UNSPOOL_DURABILITY": measure.durability}
    return kept | own | {"PYTHONPATH": str(place.scratch)}


def _timed(work: Callable[[], object]) -> Run:
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    work()
    ended, after = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Run(ended - started, processor)


def _show(console: Console, measure: Measure, found: Mapping[str, Sequence[Run]]) -> None:
    table = Table(title=measure.name, title_justify="left")
    for name in ("", "tasks a second", "least", "most", "processor µs a task"):
        table.add_column(name, justify="right" if name else "left")
    rates, costs = {}, {}
    for side, runs in found.items():
        per_second = sorted(measure.tasks / run.wall for run in runs)
        rates[side] = median(per_second)
        costs[side] = median(run.processor for run in runs) / measure.tasks * 1e6
        table.add_row(
            side, f"{rates[side]:,.0f}", f"{per_second[0]:,.0f}", f"{per_second[-1]:,.0f}", f"{costs[side]:.1f}"
        )
    (before, now), (cost, cost_now) = rates.values(), costs.values()
    table.add_row("ratio", f"{now / before:.3f}", "", "", f"{cost_now / cost:.3f}", style="bold")
    console.print(table)


if __name__ == "__main__":
    sys.exit(main())
