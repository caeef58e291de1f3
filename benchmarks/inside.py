"""``make bench-uwsgi``: the same tasks inside uWSGI by unspool, uwsgiconf and uwsgidecorators, and by ``unspool run``.

uwsgiconf is installed into a separate directory, because its package hides unspool's module of the same name.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from rich.console import Console
from rich.table import Table

from . import machine
from .filesystem import Ground, Place, ground
from .processes import Failed
from .system import System
from .unspool_side import Unspool
from .uwsgi_side import Uwsgi

_BASES = ("uwsgiconf", "uWSGI")  # the systems that the others are compared with


class Inside(Uwsgi):
    """unspool inside uWSGI."""

    name = "unspool inside"
    app = "app_inside"


class Uwsgiconf(Uwsgi):
    """uwsgiconf inside uWSGI."""

    name = "uwsgiconf"
    app = "app_uwsgiconf"

    def __init__(self, site: str) -> None:
        super().__init__()
        self._site = site

    def environment(self, place: Place) -> dict[str, str]:
        return {"PYTHONPATH": f"{self._site}:{Path(__file__).resolve().parent.parent}"}


Figures = dict[str, dict[str, list[float]]]
"""By row and system, one for each run."""


def main() -> int:
    """Measure, print and save. Return the exit status."""
    options = _options()
    console = Console(width=None if sys.stdout.isatty() else 150, highlight=False)
    with _installed("uwsgiconf") as (site, version), ground(options.tasks) as place:
        found = machine.describe(place) | {"uwsgiconf": version}
        for name, value in found.items():
            console.print(f"{name}: {value}", markup=False, soft_wrap=True)
        relaxed = {"UNSPOOL_DURABILITY": "relaxed"}
        systems = [Inside(relaxed), Uwsgiconf(site), Uwsgi(), Unspool("relaxed")]
        figures = _measure(place, systems, options)
    _show(console, figures, [system.name for system in systems])
    if options.save:
        options.save.write_text(json.dumps({"machine": found, "figures": figures}, indent=1) + "\n", encoding="utf-8")
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.inside", description=__doc__)
    parser.add_argument("--runs", type=int, default=5, help="of each measure; its median counts (default 5)")
    parser.add_argument("--tasks", type=int, default=20_000, help="sent or run in each (default 20000)")
    parser.add_argument("--calls", type=int, default=300, help="to an idle worker in each (default 300)")
    parser.add_argument("--save", type=Path, help="a JSON file for all figures")
    return parser.parse_args()


@contextmanager
def _installed(package: str) -> Iterator[tuple[str, str]]:
    """Return a directory with this package, and the version."""
    with TemporaryDirectory(prefix="unspool-bench.") as site:
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--target", site]
        done = subprocess.run([*command, package], capture_output=True, text=True, check=False)
        if done.returncode:
            raise Failed(f"{package} cannot be installed: {done.stderr.strip()}")
        [info] = Path(site).glob(f"{package}-*.dist-info")
        yield site, info.name.split("-")[1].removesuffix(".dist")


def _measure(place: Ground, systems: Sequence[System], options: argparse.Namespace) -> Figures:
    """Measure all rows. Each run alternates between the systems, so that changes of the machine affect all of them."""
    tasks, calls = options.tasks, options.calls
    rows: list[tuple[str, Callable[[System], dict[str, float]]]] = [
        ("enqueue [/s]", lambda system: {"": system.enqueue(place, tasks)}),
        ("drain, 1 process [/s]", lambda system: {"": system.drain(place, tasks, 1)}),
        ("drain, 2 processes [/s]", lambda system: {"": system.drain(place, tasks, 2)}),
        ("idle latency [ms]", lambda system: system.latency(place, calls)._asdict()),
    ]
    figures: Figures = {}
    for row, take in rows:
        for run in range(1, options.runs + 1):
            for system in systems:
                print(f"{row}: {system.name}, run {run} of {options.runs}", file=sys.stderr, flush=True)
                for figure, value in take(system).items():
                    figures.setdefault(f"{row} {figure}".strip(), {}).setdefault(system.name, []).append(value)
    return figures


def _show(console: Console, figures: Figures, names: Sequence[str]) -> None:
    table = Table(title="median of the runs (least to most)")
    table.add_column("")
    for name in names:
        table.add_column(name, justify="right")
    for base in _BASES:
        table.add_column(f"inside / {base}", justify="right")
    for row, by_system in figures.items():
        medians = {name: median(runs) for name, runs in by_system.items()}
        shown = [f"{medians[name]:,.4g} ({min(by_system[name]):,.4g} to {max(by_system[name]):,.4g})" for name in names]
        ratios = [f"{medians[Inside.name] / medians[base]:.2f}" for base in _BASES]
        table.add_row(row.replace("[", r"\["), *shown, *ratios)
    console.print(table)
    console.print("Rates: more is better. Latencies: less. All without syncs; uWSGI is there with uwsgidecorators.")


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Failed as failure:
        sys.exit(f"benchmark failed: {failure}")
