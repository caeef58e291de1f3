"""``unspool retry``, ``rm``, ``purge``, ``pause``, ``resume`` and ``set-period``: what a person does to a queue."""

import time
from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta

import click

from ..backends.base import Backend
from ..errors import TaskBusy
from ..message import Entry, State
from . import output, spoolers, times

__all__ = ["COMMANDS"]

_REMOVABLE = tuple(str(state) for state in State if state is not State.RUNNING)


@click.command()
@click.argument("ids", nargs=-1, metavar="[ID]...")
@click.option("--all-dead", is_flag=True, show_envvar=True, help="All tasks that are dead.")
@spoolers.spooler_option
def retry(ids: Sequence[str], all_dead: bool, spooler: Sequence[str]) -> int:
    """Make tasks ready now, their attempts afresh.

    They may be waiting, dead or corrupt. Prints the id of each, which may be a new one.
    """
    if bool(ids) == all_dead:
        raise click.UsageError("Give the ids of tasks, or --all-dead.")
    if not all_dead:
        return _each(ids, spooler, lambda backend, entry: backend.retry(entry.id))
    for backend in spoolers.usable(spooler):
        for entry in backend.entries(frozenset({State.DEAD})):
            try:
                output.line(output.clean(backend.retry(entry.id)))
            except (LookupError, TaskBusy):
                continue  # somebody else has dealt with it meanwhile
    return 0


@click.command()
@click.argument("ids", nargs=-1, required=True, metavar="ID...")
@spoolers.spooler_option
def rm(ids: Sequence[str], spooler: Sequence[str]) -> int:
    """Delete tasks for good.

    Prints the id of each that is gone. Running tasks are left alone, with status 1.
    """

    def remove(backend: Backend, entry: Entry) -> str:
        backend.remove(entry.id)
        return entry.id

    return _each(ids, spooler, remove)


@click.command()
@click.option(
    "--state",
    type=spoolers.Choices(_REMOVABLE),
    multiple=True,
    required=True,
    show_envvar=True,
    help="Tasks in this state; may be repeated.",
)
@click.option(
    "--older-than",
    type=times.to_timedelta,
    metavar="DURATION",
    show_envvar=True,
    help="Only tasks that were last due at least so long ago: 90s, 12h, 1d.",
)
@click.option("--yes", is_flag=True, show_envvar=True, help="Do not ask.")
@spoolers.spooler_option  # fmt: skip
def purge(state: Sequence[str], older_than: timedelta | None, yes: bool, spooler: Sequence[str]) -> int:
    """Delete all tasks in a state for good."""
    chosen = spoolers.usable(spooler)
    before = None if older_than is None else time.time() - older_than.total_seconds()
    states = frozenset(map(State, state))
    doomed: Iterable[tuple[Backend, str]] = (
        (backend, entry.id) for backend in chosen for entry in backend.entries(states) if _is_older(entry, before)
    )
    if not yes and (listed := list(doomed)):
        if not output.is_terminal():
            raise click.UsageError(f"This would delete {_tasks(len(listed))}; add --yes.")
        if not click.confirm(f"Delete {_tasks(len(listed))} ({', '.join(sorted(states))}) for good?", err=True):
            return 1
        doomed = listed  # no more than was agreed to
    removed = 0
    for backend, id in doomed:
        try:
            backend.remove(id)
            removed += 1
        except (LookupError, TaskBusy):
            continue  # it has left that state meanwhile
    output.line(f"deleted {_tasks(removed)}")
    return 0


@click.command()
@spoolers.spooler_option
def pause(spooler: Sequence[str]) -> None:
    """Let no more tasks start, until resume.

    This holds for all workers of these spoolers, and for those that are started later. What runs goes on.
    """
    for backend in spoolers.existing(spooler):
        backend.control.pause()
        output.line(f"paused {output.clean(backend.name)}")


@click.command()
@spoolers.spooler_option
def resume(spooler: Sequence[str]) -> None:
    """End a pause."""
    for backend in spoolers.existing(spooler):
        backend.control.resume()
        output.line(f"resumed {output.clean(backend.name)}")


@click.command("set-period", context_settings={"ignore_unknown_options": True})  # -1 gets an answer that fits
@click.argument("seconds", type=float)
@spoolers.spooler_option
def set_period(seconds: float, spooler: Sequence[str]) -> None:
    """Set how often spoolers are looked at whole.

    Running workers heed it at once. Tasks do not wait for it where the kernel tells of their arrival.
    """
    for backend in spoolers.existing(spooler):
        backend.control.set_period(seconds)
        output.line(f"period of {output.clean(backend.name)} is {seconds:g} s")


COMMANDS = [retry, rm, purge, pause, resume, set_period]


def _each(ids: Iterable[str], given: Sequence[str], change: Callable[[Backend, Entry], str]) -> int:
    """Changes each task, and prints its id; 1 if one of them could not be, which is said."""
    status = 0
    for id in ids:
        try:
            found = spoolers.find(id, given)
            if found is None:
                raise LookupError(f"no task {id}")
            output.line(output.clean(change(*found)))
        except (LookupError, TaskBusy) as error:
            output.error(error)
            status = 1
    return status


def _tasks(number: int) -> str:
    return f"{number} task{'s' if number != 1 else ''}"


def _is_older(entry: Entry, before: float | None) -> bool:
    return before is None or entry.due <= before
