"""``unspool retry``, ``rm``, ``purge``, ``pause``, ``resume`` and ``set-period``: commands that change a queue."""

import math
import time
from collections.abc import Iterable, Iterator, Sequence
from datetime import timedelta

import click

from ..backends.base import Backend, check_period
from ..backends.change import Change, Remove, RunNow
from ..backends.page import TaskQuery
from ..errors import AmbiguousId, SpoolerUnusable, TaskBusy
from ..inspection import find, tasks
from ..message import Entry, State
from ..printable import counted
from . import durations, output, spoolers

__all__ = ["COMMANDS"]


@click.command()
@click.argument("ids", nargs=-1, metavar="[ID]...")
@click.option("--all-dead", is_flag=True, show_envvar=True, help="All tasks that are dead.")
@click.option("--all-corrupt", is_flag=True, show_envvar=True, help="All tasks that are corrupt.")
@output.json_option
@spoolers.spooler_option
def retry(ids: Sequence[str], *, all_dead: bool, all_corrupt: bool, json: bool, spooler: Sequence[str]) -> int:
    """Run tasks again now, with their attempts reset.

    They may be deferred, dead or corrupt. Prints the id of each task, which may be a new one.
    """
    if bool(ids) == (all_dead or all_corrupt):
        raise click.UsageError("Give the ids of tasks, or --all-dead, --all-corrupt or both.")
    states = frozenset([State.DEAD] * all_dead + [State.CORRUPT] * all_corrupt)
    changes = _Changes(RunNow())
    return changes.report(changes.each(ids, spooler) if ids else changes.all(_in_states(spooler, states)), json=json)


@click.command()
@click.argument("ids", nargs=-1, required=True, metavar="ID...")
@output.json_option
@spoolers.spooler_option
def rm(ids: Sequence[str], *, json: bool, spooler: Sequence[str]) -> int:
    """Delete tasks permanently.

    Prints the id of each deleted task. Running tasks are left alone, with status 1.
    """
    changes = _Changes(Remove())
    return changes.report(changes.each(ids, spooler), json=json)


@click.command()
@click.option(
    "--state",
    type=spoolers.Choices(spoolers.NOT_RUNNING),
    multiple=True,
    required=True,
    show_envvar=True,
    help="Tasks in this state; may be repeated.",
)
@click.option(
    "--older-than",
    type=durations.to_timedelta,
    metavar="DURATION",
    show_envvar=True,
    help="Only tasks that were last due at least so long ago: 90s, 12h, 1d.",
)
@click.option("--yes", is_flag=True, show_envvar=True, help="Do not ask.")
@output.json_option
@spoolers.spooler_option
def purge(state: Sequence[str], older_than: timedelta | None, *, yes: bool, json: bool, spooler: Sequence[str]) -> int:
    """Delete all tasks in a state permanently.

    Prints the id of each deleted task, and then their number.
    """
    until = math.inf if older_than is None else time.time() - older_than.total_seconds()
    doomed: Iterable[tuple[Backend, Entry]] = _in_states(spooler, frozenset(map(State, state)), until)
    if not yes and (listed := list(doomed)):
        if not output.is_terminal():
            raise click.UsageError(f"This would delete {counted(len(listed), 'task')}; add --yes.")
        if not click.confirm(
            f"Delete {counted(len(listed), 'task')} ({', '.join(sorted(set(state)))}) for good?", err=True
        ):
            output.note("nothing was deleted")
            return 1
        doomed = listed  # exactly the tasks that the user agreed to delete
    changes = _Changes(Remove())
    status = changes.report(changes.all(doomed), json=json)
    if not json:
        output.line(f"deleted {counted(changes.count, 'task')}")
    return status


@click.command()
@spoolers.spooler_option
def pause(spooler: Sequence[str]) -> None:
    """Stop starting tasks until 'unspool resume'.

    This applies to all workers of these spoolers, including those started later. Running tasks continue.
    """
    for backend in spoolers.existing(spooler):
        backend.switch(paused=True)
        output.line(f"paused {output.clean(backend.name)}")


@click.command()
@spoolers.spooler_option
def resume(spooler: Sequence[str]) -> None:
    """End a pause."""
    for backend in spoolers.existing(spooler):
        backend.switch(paused=False)
        output.line(f"resumed {output.clean(backend.name)}")


@click.command("set-period", context_settings={"ignore_unknown_options": True})  # so that -1 gets a specific error
@click.argument("period", type=durations.to_timedelta, metavar="SECONDS")
@spoolers.spooler_option
def set_period(period: timedelta, spooler: Sequence[str]) -> None:
    """Set how often spool directories are rescanned.

    SECONDS is a number, or a duration such as 5m. Running workers use the new period at once. Tasks do not wait for a
    scan where the kernel reports their arrival.
    """
    seconds = check_period(period.total_seconds())
    for backend in spoolers.existing(spooler):
        backend.switch(period=seconds)
        output.line(f"period of {output.clean(backend.name)} is {seconds:g} s")


COMMANDS = [retry, rm, purge, pause, resume, set_period]


class _Changes:
    """A change to each of several tasks. A task that cannot be changed does not stop the others.

    :param change: what is done to each task.
    """

    def __init__(self, change: Change) -> None:
        self._change = change
        self._status = 0
        self.count = 0

    def each(self, ids: Iterable[str], given: Sequence[str]) -> Iterator[str]:
        """Change the tasks of these ids, and yield the new ids. A missing or running task is an error."""
        for id in ids:
            try:
                found = spoolers.find(id, given)
            except AmbiguousId as error:
                self._fail(error)
                continue
            if found is None:
                self._fail(spoolers.missing(id, given))
            else:
                yield from self._one(found[0], found[1].id)

    def all(self, found: Iterable[tuple[Backend, Entry]]) -> Iterator[str]:
        """Change these tasks, and yield the new ids.

        A task that has left its state since it was listed is skipped.
        """
        for backend, entry in found:
            yield from self._one(backend, entry.id, listed=True)

    def _one(self, backend: Backend, id: str, *, listed: bool = False) -> Iterator[str]:
        try:
            yield backend.change(id, self._change)
        except TaskBusy as error:
            if not listed:
                self._fail(error)
        except LookupError as error:
            if not listed or find(backend, id) is not None:
                self._fail(error)
        except SpoolerUnusable as error:
            if backend.capabilities.remote:  # on a directory, the error may concern only one priority
                raise
            self._fail(f"task {id} cannot be changed: {error}")
        except OSError as error:
            self._fail(f"task {id} cannot be changed: {error.strerror}")

    def report(self, changed: Iterator[str], *, json: bool) -> int:
        """Print the id of each task when it is changed.

        Return the exit status, which is 1 if a task could not be changed.
        """
        if json:
            output.write_json_array(map(self._counted, changed))
        else:
            for id in map(self._counted, changed):
                output.line(output.clean(id))
        return self._status

    def _counted(self, id: str) -> str:
        self.count += 1
        return id

    def _fail(self, error: object) -> None:
        output.error(error)
        self._status = 1


def _in_states(
    given: Sequence[str], states: frozenset[State], until: float = math.inf
) -> Iterator[tuple[Backend, Entry]]:
    query = TaskQuery(states, until=until)
    return ((backend, entry) for backend in spoolers.usable(given) for entry in tasks(backend, query=query))
