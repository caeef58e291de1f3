"""``make bench``: enqueue, drain and idle latency of unspool, compared with uWSGI's own spooler."""

import argparse
import signal
import sys
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console

from . import charts, machine, table
from .backlog import backlogs, measure_backlogs
from .costs import measure_costs
from .filesystem import ground
from .measures import Measured, Sizes, measure, measures
from .processes import Failed
from .properties import measure_properties
from .split import steps

_GROUPS = ("enqueue", "drain", "idle latency", "backlog", "properties", "costs", "steps")
_CHARTS = Path(__file__).parent.parent / "docs" / "benchmarks"
_RESULTS = Path(__file__).parent / "results"


def main() -> int:
    """Measure, print and save. Return the exit status."""
    options = _options()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))  # so that all is ended and unmounted
    console = Console(width=None if sys.stdout.isatty() else 150, highlight=False)
    sizes = Sizes(options.tasks, max(options.tasks // 20, 20), options.calls)
    rows: list[Measured] = []
    split: dict[str, float] = {}
    wanted = options.only or _GROUPS
    waiting = 2 * options.backlog if "backlog" in wanted else 0
    with ground(max(options.tasks, waiting), options.directory) as place:
        found = machine.describe(place)
        for name, value in found.items():
            console.print(f"{name}: {value}", markup=False, soft_wrap=True)
        for what in measures(sizes):
            if what.name.partition(",")[0] in wanted:
                rows += measure(place, what, options.runs, _tell)
        if "backlog" in wanted:
            rows += measure_backlogs(place, backlogs(options.backlog), options.runs, 50_000, _tell)
        if "properties" in wanted:
            rows += measure_properties(place, options.runs, options.idle, _tell)
        if "costs" in wanted:
            rows += measure_costs(place, options.runs, options.tasks, _tell)
        if "steps" in wanted:
            split = steps(place, options.tasks)
    table.show(console, rows)
    if split:
        table.show_steps(console, split)
    for drawn in charts.draw(options.charts, rows):
        console.print(f"drawn: {drawn}", soft_wrap=True)
    path = options.save or _RESULTS / f"{datetime.now(UTC):%Y-%m-%dT%H%M}.json"
    table.save(path, found, rows, split, {"runs": options.runs, **sizes._asdict()})
    console.print(f"saved to {path}", soft_wrap=True)
    return 0


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--runs", type=int, default=5, help="of each measure; its median counts (default 5)")
    parser.add_argument("--tasks", type=int, default=20_000, help="sent or run in each (default 20000)")
    parser.add_argument("--calls", type=int, default=300, help="to an idle worker in each (default 300)")
    parser.add_argument("--backlog", type=int, default=1_000_000, help="the most that wait (default 1000000)")
    parser.add_argument("--idle", type=float, default=60.0, help="seconds to watch an idle worker (default 60)")
    parser.add_argument("--only", action="append", choices=_GROUPS, help="this group of measures; may be repeated")
    parser.add_argument("--charts", type=Path, default=_CHARTS, help="where to draw (default docs/benchmarks)")
    parser.add_argument("--directory", help="where to make the image; its disk is what is measured")
    parser.add_argument("--save", type=Path, help="the JSON file (default benchmarks/results/<date>.json)")
    options = parser.parse_args()
    for name in ("runs", "tasks", "calls", "backlog"):
        if getattr(options, name) < (2 if name != "runs" else 1):
            parser.error(f"--{name} is too small")
    return options


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Failed as failure:
        sys.exit(f"benchmark failed: {failure}")
