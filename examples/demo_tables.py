"""The tables that the demo prints."""

from collections.abc import Collection
from pathlib import Path
from statistics import quantiles

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from demo_proof import Proof, Result, ask

__all__ = ["show_failures", "show_figures", "show_largest", "show_proof"]

_COUNTED = ("lines", "functions", "classes")


def show_figures(console: Console, results: Collection[Result], seconds: float, workers: int) -> None:
    """Show the number of tasks, and the speed."""
    surveys = _surveys(results)
    table = Table("", show_header=False, title="What was done", title_justify="left")
    table.add_column(justify="right")
    table.add_row("tasks finished", f"{len(results):,}")
    table.add_row("seconds, the start and end of the workers included", f"{seconds:.1f}")
    table.add_row(f"tasks a second, with {workers} workers", f"{len(results) / seconds:,.0f}")
    cuts = quantiles((one["waited"] * 1000 for one in surveys), n=100, method="inclusive")
    for percent in (50, 90, 99):
        table.add_row(f"milliseconds from the call to the start, p{percent}", f"{cuts[percent - 1]:,.1f}")
    for name in _COUNTED:
        table.add_row(f"{name} in {len(surveys):,} modules", f"{sum(one[name] for one in surveys):,}")
    table.add_row("modules that do not parse", f"{sum(not one['parsed'] for one in surveys):,}")
    console.print(table)


def show_largest(console: Console, results: Collection[Result], folder: Path, count: int = 5) -> None:
    """Show the modules with the most lines."""
    table = Table("module", title="The largest modules", title_justify="left")
    for name in _COUNTED:
        table.add_column(name, justify="right")
    table.add_column("sha256")
    for one in sorted(_surveys(results), key=lambda one: one["lines"], reverse=True)[:count]:
        numbers = (f"{one[name]:,}" for name in _COUNTED)
        table.add_row(str(Path(one["key"]).relative_to(folder)), *numbers, f"{one['sha256'][:16]}…")
    console.print(table)


def show_failures(console: Console, failing: Collection[str], unspool: Path) -> None:
    """Show the runs of the two tasks that fail on purpose, and the commands that show the same."""
    table = Table("task", title="Two that fail on purpose", title_justify="left")
    for name in ("run", "verdict", "why"):
        table.add_column(name)
    for id in failing:
        for run in reversed(ask(unspool, "history", id)):
            table.add_row(run["task"], str(run["attempt"]), run["verdict"], escape(run["reason"]))
    console.print(table)
    console.print("The same from the command line (--keep keeps the spool directory):")
    for id in failing:
        console.print(f"unspool history {id}", markup=False, soft_wrap=True)
    console.print("unspool ls --state dead")


def show_proof(console: Console, proof: Proof) -> None:
    """Show what was counted, and whether the proof holds."""
    table = Table("", title="Nothing is left, nothing was lost", title_justify="left", show_header=False)
    table.add_column(justify="right")
    table.add_row("acknowledged: their calls returned an id", f"{proof.acknowledged:,}")
    table.add_row("finished: they wrote their results themselves", f"{proof.finished:,}")
    table.add_row("set aside, by unspool ls --state dead", f"{proof.aside:,}")
    table.add_row("lost: neither finished nor set aside", f"{len(proof.missing):,}")
    table.add_row("finished more than once", f"{proof.repeated:,}")
    for state, count in proof.left.items():
        table.add_row(f"{state}, by unspool status", f"{count:,}")
    console.print(table)
    for subject in sorted(proof.missing):
        console.print(f"lost: {subject}", markup=False)
    console.print("The proof holds." if proof.holds else "THE PROOF DOES NOT HOLD.", style="bold")


def _surveys(results: Collection[Result]) -> list[Result]:
    return [result for result in results if "sha256" in result]
