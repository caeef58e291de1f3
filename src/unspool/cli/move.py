"""``unspool move``: moves the tasks of a queue to another one."""

import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

import click

from ..backends.base import Backend
from ..inspection import exists, find, tasks
from ..message import Entry, State
from ..printable import counted
from ..transfer.carrier import Batch, Carrier, Stayed, carrier_between
from . import output, spoolers

__all__ = ["COMMANDS"]

_BATCH = 200  # tasks in one batch, each a locked file or row
_BYTES = 1 << 24  # maximum bytes in one batch, unless a single task is larger
_EVERY = 0.2  # seconds between two updates of the progress line


@click.command()
@click.argument("source", metavar="SRC", type=spoolers.SPOOLER)
@click.argument("destination", metavar="DST", type=spoolers.SPOOLER)
@click.option(
    "--state",
    type=spoolers.Choices(spoolers.NOT_RUNNING),
    multiple=True,
    show_envvar=True,
    help="Only tasks in this state; may be repeated.",
)
@click.option("--dry-run", is_flag=True, show_envvar=True, help="Count what would be moved, and move nothing.")
@click.option(
    "--sign-unsigned",
    is_flag=True,
    show_envvar=True,
    help="Sign unsigned tasks with the secret key. Use this only if no one else could write to SRC.",
)
@output.json_option
def move(source: str, destination: str, *, state: Sequence[str], dry_run: bool, sign_unsigned: bool, json: bool) -> int:
    """Move the tasks of one spooler to another.

    SRC and DST are directories or URLs, or the base names of configured ones. Priorities, due times, attempts and
    reasons are kept. Senders and workers may continue at both ends: each task runs at one of them. If this is stopped,
    run it again.

    Running tasks stay, and so do tasks that are damaged or not signed as required. Each is reported. Status 1 if any
    task stayed.
    """
    here, there = spoolers.backends([source])[0], spoolers.backends([destination])[0]
    carrier = carrier_between(here, there, vouch=sign_unsigned)
    states = frozenset(map(State, state or spoolers.NOT_RUNNING))
    if not exists(here):
        raise spoolers.NotThere(f"spooler {here.name} does not exist")
    exists(there)
    if dry_run:
        counts = here.counts().tasks
        return _report(here, there, Counter({one: counts[one] for one in states}), [], json=json, dry=True)
    moved: Counter[State] = Counter()
    stayed: dict[str, Stayed] = {}
    line = _Line()
    try:
        for batch in _carried(here, carrier, states):
            now = time.time()  # tasks that were sent a moment ago are due
            moved.update(
                State.DEFERRED if one.state is State.READY and one.due > now else one.state for one in batch.moved
            )
            stayed |= {one.id: one for one in batch.stayed}
            line.show(moved.total())
    finally:
        line.clear()
    running = [Stayed(entry.id, "is running") for entry in tasks(here, frozenset({State.RUNNING}))]
    return _report(here, there, moved, [*stayed.values(), *running], json=json)


COMMANDS = [move]


def _carried(here: Backend, carrier: Carrier, states: frozenset[State]) -> Iterator[Batch]:
    batch = carrier.resume()
    known = {one.id for one in batch.stayed}
    yield batch
    for entries in _batches(entry for entry in tasks(here, states) if entry.id not in known):
        batch = carrier.carry([entry.id for entry in entries])
        yield batch
        done = {one.id for one in batch.moved} | {one.id for one in batch.stayed}
        for entry in entries:
            if entry.id not in done:
                yield _again(here, carrier, entry.id)


def _again(here: Backend, carrier: Carrier, id: str) -> Batch:
    """Retry a task that was not transferred. It may have ended or started meanwhile, or exceeded the size of
    the batch.
    """
    entry = find(here, id)
    if entry is None or entry.state is State.RUNNING:
        return Batch()  # running tasks are reported at the end
    batch = carrier.carry([id])
    if not batch.moved and not batch.stayed and (entry := find(here, id)) is not None:
        return Batch((), [Stayed(id, entry.reason or "cannot be moved now")])
    return batch


def _batches(entries: Iterable[Entry]) -> Iterator[list[Entry]]:
    batch: list[Entry] = []
    size = 0
    for entry in entries:
        if batch and (len(batch) == _BATCH or size + entry.size > _BYTES):
            yield batch
            batch, size = [], 0
        batch.append(entry)
        size += entry.size
    if batch:
        yield batch


def _report(
    here: Backend, there: Backend, moved: Counter[State], stayed: Sequence[Stayed], *, json: bool, dry: bool = False
) -> int:
    counts = {str(state): moved[state] for state in State if moved[state]}
    if json:
        output.write_json(
            {
                "source": here.name,
                "destination": there.name,
                "dry_run": dry,
                "moved": {name: counts.get(name, 0) for name in spoolers.NOT_RUNNING},
                "stayed": [one._asdict() for one in stayed],
            }
        )
    else:
        kinds = ", ".join(f"{count} {name}" for name, count in counts.items())
        number = counted(moved.total(), "task")
        output.line(f"{'would move' if dry else 'moved'} {number}" + (f": {kinds}" if kinds else ""))
        for one in stayed:
            output.note(f"task {one.id} stays: {one.reason}")
    return 1 if stayed else 0


class _Line:
    """A progress line on a terminal's stderr, rewritten in place."""

    def __init__(self) -> None:
        self._next = 0.0
        self._shown = False

    def show(self, moved: int) -> None:
        """Show the number of moved tasks."""
        if time.monotonic() >= self._next and output.is_terminal(sys.stderr):
            self._next, self._shown = time.monotonic() + _EVERY, True
            sys.stderr.write(f"\r{moved:,} moved\x1b[K")
            sys.stderr.flush()

    def clear(self) -> None:
        """Clear the line."""
        if self._shown:
            sys.stderr.write("\r\x1b[K")
