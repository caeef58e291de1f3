"""The tables of ``ls``, ``history`` and ``status`` on a terminal: one line for each row, with short ids."""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from ..backends.base import Backend
from ..message import Entry, Record
from ..task_id import short_id
from . import durations, output
from .columns import Column

__all__ = ["processes", "runs", "spoolers", "tasks"]

_ID = Column("ID", 40, keeps_end=True)  # the short ids of all backends are shorter, so they are never cut
_TASKS = (
    Column("STATE"),
    Column("TASK", 10),
    Column("PRIO", spare=1),
    Column("DUE"),
    Column("TRIES", spare=2),
    _ID,
    Column("REASON", 16),
)
_RUNS = (
    Column("STARTED"),
    Column("VERDICT"),
    Column("TASK", 10),
    Column("TRY", spare=3),
    Column("TOOK", spare=1),
    Column("PID", spare=4),
    _ID,
    Column("REASON", 12),
)
_SPOOLER = Column("SPOOLER", 8, keeps_end=True, spare=2)
_PROCESSES = (
    Column("SPOOLER", 10, keeps_end=True),
    Column("HOST", 8, spare=1),
    Column("PID"),
    Column("ROLE"),
    Column("TASK", 10),
    Column("SINCE"),
    _ID,
)
_STATUS = {
    "SPOOLER": Column("SPOOLER", 9, keeps_end=True),
    "PERIOD": Column("PERIOD", spare=2),
    "OLDEST": Column("OLDEST", spare=1),
    "FORWARD": Column("FORWARD", 9, keeps_end=True),
}


def tasks(spooler: str, entries: Sequence[Entry]) -> None:
    """Print tasks under the name of their spooler."""
    if not entries:
        return
    output.heading(spooler)
    now = time.time()
    rows = [
        (
            str(entry.state),
            entry.task,
            "" if entry.priority is None else str(entry.priority),
            durations.relative(entry.due, now),
            str(entry.attempts),
            short,
            entry.reason,
        )
        for entry, short in zip(entries, _shorts(spooler, [entry.id for entry in entries]), strict=True)
    ]
    output.aligned(_TASKS, rows)


def runs(found: Sequence[tuple[Backend, Record]]) -> None:
    """Print runs, with a column for the spooler if there are several."""
    now = time.time()
    names = list(dict.fromkeys(backend.name for backend, _ in found))
    shorts: dict[tuple[str, str], str] = {}
    for name in names:
        ids = list(dict.fromkeys(run.id for owner, run in found if owner.name == name))
        shorts |= {(name, id): short for id, short in zip(ids, _shorts(name, ids), strict=True)}
    several = len(names) > 1
    rows = [
        (
            durations.clock(run.started, now),
            run.verdict,
            run.task,
            str(run.attempt),
            durations.span(run.duration),
            str(run.pid),
            shorts[backend.name, run.id],
            *([backend.name] * several),
            run.reason,
        )
        for backend, run in found
    ]
    output.aligned([*_RUNS[:-1], *([_SPOOLER] * several), _RUNS[-1]], rows)


def processes(found: Sequence[Mapping[str, Any]]) -> None:
    """Print live processes, in the form of ``status --workers --json``."""
    now = time.time()
    rows = [
        (
            one["spooler"],
            one["host"],
            str(one["pid"]),
            one["role"],
            one["task"] or "",
            "" if one["since"] is None else durations.clock(one["since"], now),
            short_id(one["id"]) if one["id"] else "",
        )
        for one in found
    ]
    output.aligned(_PROCESSES, rows)


def spoolers(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print the counts of ``status``."""
    output.aligned([_STATUS.get(heading, Column(heading)) for heading in headings], rows)


def _shorts(spooler: str, ids: Sequence[str]) -> list[str]:
    """Return the short forms of ids, in order.

    If short forms are equal, return the paths within the spooler instead.
    """
    short = [short_id(id) for id in ids]
    count = Counter(short)
    return [one if count[one] == 1 else id.removeprefix(f"{spooler}/") for id, one in zip(ids, short, strict=True)]
