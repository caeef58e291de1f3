"""``make bench``: enqueue, drain and idle latency of unspool, as ratios against uWSGI's own spooler."""

import argparse
import signal
import sys
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console

from . import machine, table
from .filesystem import ground
from .measures import Sizes, measure, measures
from .processes import Failed
from .split import steps

_RESULTS = Path(__file__).parent / "results"


def main() -> int:
    """Measures, prints, saves; returns the exit status."""
    options = _options()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))  # so that all is ended and unmounted
    console = Console(width=None if sys.stdout.isatty() else 150, highlight=False)
    sizes = Sizes(options.tasks, max(options.tasks // 20, 20), options.calls)
    rows = []
    with ground(options.tasks, options.directory) as place:
        found = machine.describe(place)
        for name, value in found.items():
            console.print(f"{name}: {value}", markup=False, soft_wrap=True)
        for what in measures(sizes):
            rows += measure(place, what, options.runs, lambda text: print(text, file=sys.stderr, flush=True))
        split = steps(place, options.tasks)
    table.show(console, rows)
    table.show_steps(console, split)
    path = options.save or _RESULTS / f"{datetime.now(UTC):%Y-%m-%dT%H%M}.json"
    table.save(path, found, rows, split, {"runs": options.runs, **sizes._asdict()})
    console.print(f"saved to {path}", soft_wrap=True)
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--runs", type=int, default=5, help="of each measure; its median counts (default 5)")
    parser.add_argument("--tasks", type=int, default=20_000, help="sent or run in each (default 20000)")
    parser.add_argument("--calls", type=int, default=300, help="to an idle worker in each (default 300)")
    parser.add_argument("--directory", help="where to make the image; its disk is what is measured")
    parser.add_argument("--save", type=Path, help="the JSON file (default benchmarks/results/<date>.json)")
    options = parser.parse_args()
    for name in ("runs", "tasks", "calls"):
        if getattr(options, name) < (2 if name != "runs" else 1):
            parser.error(f"--{name} is too small")
    return options


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Failed as failure:
        sys.exit(f"benchmark failed: {failure}")
