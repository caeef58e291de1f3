"""``unspool show``: one task, its arguments and its runs. It takes no lock and unpickles nothing."""

import json
import time
from collections.abc import Iterable, Sequence
from typing import Any

import click

from ..backends.base import Backend
from ..inspection import read, runs
from ..message import Content, Entry, Record, State
from ..outline import call_of
from ..task_id import short_id
from . import durations, output, spoolers

__all__ = ["entry_json", "run_json", "show"]

_RUNS = 10  # maximum number of runs printed
_TRACEBACKS = 3  # maximum number of different tracebacks printed in full
_DEEPEST = 100  # maximum depth of a JSON body that is shown


@click.command()
@click.argument("id")
@output.json_option
@spoolers.spooler_option
def show(id: str, json: bool, spooler: Sequence[str]) -> None:
    """Show one task, its call, and how its runs ended.

    JSON arguments are shown unchanged, pickled ones as an outline: nothing is unpickled.

    ID is an id from ls, or a part of it that no other task has.
    """
    found = spoolers.find(id, spooler)
    task = read(found[0], found[1].id) if found else None
    if found is None or task is None:
        raise spoolers.NotThere(spoolers.missing(id, spooler))
    backend, (entry, content) = found[0], task
    past = runs(backend, entry.id, _RUNS)
    if json:
        output.write_json(entry_json(entry) | _details(backend, entry, content) | {"history": [*map(run_json, past)]})
    else:
        _show(entry, _details(backend, entry, content), past)
        _advise(entry)


def entry_json(entry: Entry) -> dict[str, Any]:
    """Return a task as --json prints it."""
    return {
        "id": entry.id,
        "state": str(entry.state),
        "spooler": entry.spooler,
        "task": entry.task,
        "priority": entry.priority,
        "due": entry.due,
        "attempts": entry.attempts,
        "reason": entry.reason,
        "size": entry.size,
    }


def run_json(run: Record) -> dict[str, Any]:
    """Return a run as --json prints it."""
    shown = run._asdict() | {"reason": run.reason, "traceback": run.traceback}
    del shown["error"]
    return shown


def _details(backend: Backend, entry: Entry, content: Content | None) -> dict[str, Any]:
    """Return the details that only `show` prints. A pickle is outlined and not unpickled."""
    details: dict[str, Any] = {
        "vars": {},
        "message": None,
        "serializer": None,
        "body_size": None,
        "call": None,
        "worker": None,
    }
    if entry.state is State.RUNNING:
        for info in backend.live():
            if info.ref and entry.id.endswith(f"/{info.ref}"):
                details["worker"] = {"pid": info.pid, "since": info.since}
    if content is None:
        return details
    details["vars"] = {key: value.decode("utf-8", "backslashreplace") for key, value in content.vars.items()}
    details["message"] = details["vars"].get("msg")
    details["serializer"] = details["vars"].get("unspool_codec", "pickle")
    details["body_size"] = len(content.body)
    details["call"] = call_of(content, entry.task)
    if details["serializer"] == "json" and content.body:
        try:
            body = json.loads(content.body)
        except (ValueError, RecursionError):
            body = None
        details["body"] = None if _is_deep(body) else body
    return details


def _is_deep(value: Any) -> bool:
    """Return whether a value is nested so deep that it might exceed Python's recursion limit."""
    level = [value]
    for _ in range(_DEEPEST):
        level = [part for whole in level if isinstance(whole, list | dict) for part in _parts(whole)]
        if not level:
            return False
    return True


def _parts(whole: list[Any] | dict[str, Any]) -> Iterable[Any]:
    return whole.values() if isinstance(whole, dict) else whole


def _show(entry: Entry, details: dict[str, Any], past: Sequence[Record]) -> None:
    fields = {
        "id": entry.id,
        "task": entry.task,
        "call": details["call"] or "",
        "state": str(entry.state),
        "reason": entry.reason,
        "spooler": entry.spooler,
        "priority": "none" if entry.priority is None else str(entry.priority),
        "due": f"{durations.moment(entry.due, 'milliseconds')} ({durations.relative(entry.due)})",
        "attempts": str(entry.attempts),
        "size": f"{entry.size:,} bytes",
        "message": details["message"] or "",
    }
    if worker := details["worker"]:
        fields["state"] += f" in process {worker['pid']} for {durations.span(max(0.0, time.time() - worker['since']))}"
    if "body" in details:
        fields["body"] = json.dumps(details["body"])
    for name, value in fields.items():
        if value:
            output.line(f"{name + ':':<10}{output.clean(value)}")
    if past:
        output.line("runs:", "bold")
    shown: list[str] = []
    for run in past:
        whole = run.error not in shown and len(shown) < _TRACEBACKS
        _show_run(run, whole=whole)
        shown += [run.error] if whole and run.error else []


def _show_run(run: Record, *, whole: bool) -> None:
    started = durations.moment(run.started, "milliseconds")
    output.line(
        f"  {started}  {output.clean(run.verdict)}, attempt {run.attempt}, "
        f"{durations.span(run.duration)}, pid {run.pid}"
    )
    for text in [run.reason, *(run.traceback.split("\n") if whole and run.traceback else [])]:
        output.line(f"    {output.clean(text)}")


def _advise(entry: Entry) -> None:
    """Print what can be done about a dead letter."""
    if output.is_terminal() and entry.state in (State.DEAD, State.CORRUPT):
        short = short_id(entry.id)
        output.note(f"'unspool retry {short}' runs it again, 'unspool rm {short}' deletes it")
