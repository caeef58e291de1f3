"""Rows of figures of several systems: measured in turn, shown as medians and as ratios to one of them, and saved."""

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Protocol, TypeVar

from rich.console import Console
from rich.table import Table

from .processes import Failed

__all__ = ["Figures", "measure", "save", "show", "show_facts"]

Figures = dict[str, dict[str, list[float]]]
"""By row and system, one for each run. A row's name ends with its unit in brackets, or has it before a comma."""


class _Named(Protocol):
    name: str


Measurable = TypeVar("Measurable", bound=_Named)


def measure(
    rows: Sequence[tuple[str, Callable[[Measurable], Mapping[str, float]]]],
    systems: Sequence[Measurable],
    runs: int,
    failures: list[str],
) -> Figures:
    """Measure all rows. Each run alternates between the systems, so that changes of the machine affect all of them.

    :param failures: called with each failure. The other measurements continue.
    """
    figures: Figures = {}
    for row, take in rows:
        for run in range(1, runs + 1):
            for system in systems:
                print(f"{row}: {system.name}, run {run} of {runs}", file=sys.stderr, flush=True)
                try:
                    found = take(system)
                except Failed as failure:
                    failures.append(f"{row}: {system.name}: {failure}")
                    print(failures[-1], file=sys.stderr, flush=True)
                    continue
                for figure, value in found.items():
                    figures.setdefault(f"{row} {figure}".strip(), {}).setdefault(system.name, []).append(value)
    return figures


def show(console: Console, title: str, figures: Figures, ours: str, names: Sequence[str]) -> None:
    """Print one line per row.

    :param ours: the system with which the others are compared.
    """
    table = Table(title=f"{title}: median of the runs (least to most); in brackets: {ours} is so many times as good")
    table.add_column("")
    for name in names:
        table.add_column(name, justify="right")
    for row, by_system in figures.items():
        cells = []
        for name in names:
            runs = by_system.get(name)
            if not runs:
                cells.append("")
                continue
            shown = f"{_number(median(runs))} ({_number(min(runs))} to {_number(max(runs))})"
            if name != ours and ours in by_system:
                pair = median(by_system[ours]), median(runs)
                better = pair[0] / pair[1] if "/s]" in row else pair[1] / pair[0]
                shown += rf" \[{better:.2f}]"
            cells.append(shown)
        table.add_row(row.replace("[", r"\["), *cells)
    console.print(table)
    console.print("Rates: more is better. Latencies: less.")


def show_facts(console: Console, facts: Mapping[str, str]) -> None:
    """Print the versions and the machine."""
    for name, value in facts.items():
        console.print(f"{name}: {value}", markup=False, soft_wrap=True)


def save(path: Path, found: Mapping[str, object]) -> None:
    """Save all figures of all runs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
