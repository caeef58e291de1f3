"""``unspool ls``, ``history`` and ``status``, which take no lock and unpickle nothing."""

import socket
import time
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

import click

from .. import routes
from ..backends.base import Backend, WorkerInfo
from ..backends.page import RunQuery
from ..inspection import find, runs, tasks
from ..message import Entry, Record, State
from . import durations, options, output, spoolers
from .show import entry_json, run_json, show

__all__ = ["COMMANDS"]

_SCREENFUL = 500  # tasks listed on a terminal without --limit; alignment requires reading all of them


@click.command()
@click.option(
    "--state",
    type=spoolers.Choices([str(state) for state in State]),
    multiple=True,
    show_envvar=True,
    help="Only tasks in this state; may be repeated.",
)
@click.option(
    "--limit",
    type=options.WholeNumber(0, output.MOST),
    metavar="N",
    show_envvar=True,
    help=f"At most so many. Default: all; on a terminal {_SCREENFUL}.",
)
@output.json_option
@spoolers.spooler_option
def ls(state: Sequence[str], limit: int | None, json: bool, spooler: Sequence[str]) -> None:
    """List tasks in the order of execution.

    Running tasks come first, then ready, deferred, dead and corrupt ones. Piped, a task is a line of tab-separated id,
    state, task, priority, due time, attempts and reason.
    """
    chosen = spoolers.usable(spooler)
    people = output.is_terminal() and not json
    bound = _SCREENFUL + 1 if people and limit is None else limit
    entries = _entries(chosen, frozenset(map(State, state)) or frozenset(State), bound)
    if json:
        output.write_json_array(map(entry_json, entries))
    elif not people:
        output.tabbed((), map(_plain_row, entries))
    else:
        from . import tables

        found = list(entries)
        shown = found[:_SCREENFUL] if limit is None else found
        for backend in chosen:
            tables.tasks(backend.name, [entry for entry in shown if entry.spooler == backend.name])
        if len(shown) < len(found):
            output.note(f"these are the first {_SCREENFUL}; --limit shows more, status counts all")
        elif not found:
            output.note("no tasks")


@click.command()
@click.argument("id", required=False)
@click.option(
    "--limit",
    type=options.WholeNumber(1, output.MOST),
    default=50,
    show_default=True,
    metavar="N",
    show_envvar=True,
    # UNSPOOL_HISTORY_LIMIT is the setting for the number of runs kept.
    envvar="UNSPOOL_HISTORY_ROWS",
    allow_from_autoenv=False,
    help="At most so many.",
)
@click.option("--failed", is_flag=True, show_envvar=True, help="Only runs that did not go well.")
@output.json_option
@spoolers.spooler_option
def history(id: str | None, limit: int, failed: bool, json: bool, spooler: Sequence[str]) -> None:
    """List past runs, of all tasks or one.

    The newest come first. Piped, a run is a line of tab-separated start, verdict, task, attempt, duration, pid, id and
    reason. Tracebacks are in --json, and in show.
    """
    ids: list[tuple[Backend, str]]
    if id is None:
        ids = [(backend, "") for backend in spoolers.usable(spooler)]
    elif waiting := spoolers.find(id, spooler):
        ids = [(waiting[0], waiting[1].id)]
    elif ended := spoolers.find_ended(id, spooler):
        ids = [(ended[0], one) for one in ended[1]]
    else:
        raise spoolers.NotThere(f"no task {id}, and no run of it in the history")
    found = [
        (backend, run)
        for backend, one in ids
        for run in runs(backend, query=RunQuery(id=one, failed=failed), limit=limit)
    ]
    found = sorted(found, key=lambda one: -one[1].started)[:limit]
    if json:
        output.write_json_array(run_json(run) for _, run in found)
    elif not output.is_terminal():
        output.tabbed((), (_run_row(run) for _, run in found))
    elif found:
        from . import tables

        tables.runs(found)
    else:
        output.note("no runs")


@click.command()
@click.option("--workers", is_flag=True, show_envvar=True, help="List each live process, on all machines, instead.")
@output.json_option
@spoolers.spooler_option
def status(workers: bool, json: bool, spooler: Sequence[str]) -> None:
    """Count tasks and workers by spooler.

    For a forwarded spooler, the counts are of the tasks still here and of the forwarders, and the destination is shown.
    """
    chosen = spoolers.usable(spooler)
    if workers:
        processes = [_process(backend, info) for backend in chosen for info in backend.live()]
        if json:
            output.write_json({"processes": processes})
        elif output.is_terminal():
            from . import tables

            tables.processes(processes)
        else:
            headings = ["SPOOLER", "HOST", "PID", "ROLE", "TASK", "SINCE", "ID"]
            output.tabbed(headings, map(_process_row, processes))
        if not json and not processes:
            output.note("no worker is running")
        return
    rows = [_status(backend) for backend in chosen]
    where = [routes.destination(backend.name) for backend in chosen]
    if any(where):
        rows = [row | {"forward": to} for row, to in zip(rows, where, strict=True)]
    if json:
        output.write_json({"spoolers": rows})
    else:
        cells = [[_status_cell(name, value) for name, value in row.items()] for row in rows]
        headings = [heading.upper() for heading in ["spooler", *list(rows[0])[1:]]]
        if output.is_terminal():
            from . import tables

            tables.spoolers(headings, cells)
        else:
            output.tabbed(headings, cells)


COMMANDS = [ls, show, history, status]


# --- ls


def _entries(chosen: Iterable[Backend], states: frozenset[State], limit: int | None) -> Iterator[Entry]:
    return islice((entry for backend in chosen for entry in tasks(backend, states, limit)), limit)


def _plain_row(entry: Entry) -> Sequence[str]:
    priority = "" if entry.priority is None else str(entry.priority)
    due = durations.moment(entry.due, "milliseconds")
    return entry.id, str(entry.state), entry.task, priority, due, str(entry.attempts), entry.reason


# --- history


def _run_row(run: Record) -> Sequence[str]:
    return (
        durations.moment(run.started, "milliseconds"),
        run.verdict,
        run.task,
        str(run.attempt),
        durations.span(run.duration),
        str(run.pid),
        run.id,
        run.reason,
    )


# --- status


def _status(backend: Backend) -> dict[str, Any]:
    (counts, oldest), switches = backend.counts(), backend.switch()
    role = "forwarder" if routes.destination(backend.name) else "worker"
    return {
        "name": backend.name,
        **{str(state): counts[state] for state in State},
        "workers": sum(1 for info in backend.live() if info.role == role),
        "paused": switches.paused,
        "period": switches.period,
        "oldest": oldest,
    }


def _process(backend: Backend, info: WorkerInfo) -> dict[str, Any]:
    id = f"{backend.name}/{info.ref}" if info.ref else None
    entry = find(backend, id) if id else None
    return {
        "spooler": backend.name,
        "host": info.host or socket.gethostname(),
        "pid": info.pid,
        "role": info.role,
        "task": entry.task if entry else None,
        "since": info.since if info.ref else None,
        "id": id,
    }


def _process_row(process: dict[str, Any]) -> Sequence[str]:
    since = "" if process["since"] is None else durations.moment(process["since"], "milliseconds")
    named = process["spooler"], process["host"], str(process["pid"]), process["role"], process["task"] or ""
    return *named, since, process["id"] or ""


def _status_cell(name: str, value: Any) -> str:
    if name == "forward":
        return value or "no"
    if name == "oldest":
        return "" if value is None else durations.span(max(0.0, time.time() - value))
    if name == "paused":
        return "yes" if value else "no"
    return f"{value:g} s" if name == "period" else str(value)
