"""The printed table, and the saved JSON."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.table import Table

from .measures import BARE, Measured
from .unspool_side import Unspool
from .uwsgi_side import Uwsgi

__all__ = ["save", "show", "show_steps"]


def show(console: Console, rows: Sequence[Measured]) -> None:
    """Print one line per row: the median, minimum and maximum of the runs, and unspool's ratio to the others."""
    table = Table(title="median of the runs (least to most); a ratio is unspool's figure to the one before it")
    table.add_column("")
    for name in (Unspool.name, Uwsgi.name, "ratio", BARE, "ratio"):
        table.add_column(name, justify="right")
    by_name = {row.name: row for row in rows}
    for row in rows:
        ours = row.runs[Unspool.name]
        compared = by_name.get(row.compare or row.name)
        theirs = compared.runs.get(Uwsgi.name) if compared else None
        bare = row.runs.get(BARE)
        table.add_row(
            (f"{row.name} [{row.unit}]" if row.unit else row.name).replace("[", r"\["),
            _figures(ours),
            f"({_number(median(theirs))})" if theirs and row.compare else _figures(theirs),
            _ratio(ours, theirs),
            _figures(bare),
            _ratio(ours, bare),
        )
    console.print(table)
    console.print("Rates: more is better. Latencies: less. In brackets: uWSGI has no such mode; its figure without.")
    console.print("unspool's figures include order, counted attempts, checksum and history, of which uWSGI has none.")


def show_steps(console: Console, steps: Mapping[str, float]) -> None:
    """Print the cost of one task in unspool, step by step."""
    table = Table(title="unspool's own time for a task, step by step")
    table.add_column("")
    table.add_column("µs", justify="right")
    for step, microseconds in steps.items():
        table.add_row(step, f"{microseconds:.1f}")
    for part in ("send", "run"):
        total = sum(value for step, value in steps.items() if step.startswith(f"{part}:"))
        table.add_row(f"{part}, in all", f"{total:.1f}", style="bold")
    console.print(table)


def save(
    path: Path,
    machine: Mapping[str, str],
    rows: Sequence[Measured],
    steps: Mapping[str, float],
    sizes: Mapping[str, int],
) -> None:
    """Save all figures of all runs."""
    found = {
        "machine": machine,
        "sizes": sizes,
        "rows": [
            {
                "name": row.name,
                "unit": row.unit,
                "runs": row.runs,
                "median": {system: median(figures) for system, figures in row.runs.items()},
                "compared_with": row.compare,
            }
            for row in rows
        ],
        "microseconds_a_task": steps,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _figures(runs: Sequence[float] | None) -> str:
    return f"{_number(median(runs))} ({_number(min(runs))} to {_number(max(runs))})" if runs else ""


def _ratio(ours: Sequence[float], others: Sequence[float] | None) -> str:
    return f"{median(ours) / median(others):.2f}" if others else ""


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
