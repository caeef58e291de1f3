"""The spoolers of a command: those of ``--spooler`` or the configured ones, and the search for a task in them."""

import os
from collections.abc import Iterable, Sequence
from typing import Any

import click

from .. import address, lookup, registry, settings
from ..backends.base import Backend
from ..errors import NoSpooler, OptionRefused
from ..inspection import exists, runs
from ..message import Entry, State
from . import durations
from .output import note

__all__ = ["SPOOLER", "Choices", "NotThere", "backends", "existing", "find", "find_ended", "missing",
           "shared", "spooler_option", "usable"]  # fmt: skip


class NotThere(click.ClickException):
    """A task or spooler does not exist; exit status 1."""

    exit_code = 1


class _SpoolerType(click.ParamType):  # type: ignore[type-arg]  # generic only from click 8.4 on
    """A spool directory or a URL. In the environment, several are separated by commas, as in UNSPOOL_SPOOLERS."""

    name = "SPOOLER"

    def split_envvar_value(self, rv: str) -> Sequence[str]:
        return address.split(rv)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        text = str(value).strip()
        if not text or "\0" in text:
            self.fail("name a directory, or give a URL.", param, ctx)
        try:
            return address.name_of(text)  # without its password, which no message may show
        except OptionRefused as error:
            self.fail(str(error), param, ctx)


SPOOLER = _SpoolerType()


class Choices(click.Choice):  # type: ignore[type-arg]  # generic only from click 8.2 on
    """Several choices. In the environment, they are separated by commas, as spoolers are, or by spaces."""

    def split_envvar_value(self, rv: str) -> Sequence[str]:
        return rv.replace(",", " ").split()


NOT_RUNNING = tuple(str(state) for state in State if state is not State.RUNNING)
"""The states that commands which change tasks may choose from."""

spooler_option = click.option(
    "--spooler",
    multiple=True,
    metavar="SPOOLER",
    type=SPOOLER,
    show_envvar=True,
    help="A spool directory (a path with a slash), a URL, or the base name of a configured one; may be repeated. "
    "Default: all configured ones.",
)


def backends(given: Sequence[str]) -> list[Backend]:
    """Return the spoolers of a command, each once.

    :raises NoSpooler: if none is given or configured.
    :raises OptionRefused: as for ``shared``.
    """
    if given:
        found = [_backend(name) for name in given]
    else:
        try:
            registry.backend()
        except NoSpooler as error:
            raise NoSpooler(f"{error}; or give --spooler DIR or URL") from None
        found = [registry.backend(name) for name in settings.spooler_names()]
    return list({backend.name: shared(backend) for backend in found}.values())


def shared(backend: Backend) -> Backend:
    """Return the backend.

    :raises OptionRefused: if no other process sees its tasks, so that a command would find none and send to no worker.
    """
    if not backend.capabilities.forks:
        raise OptionRefused(
            f"spooler {backend.name} is in the memory of one process, and no command or worker sees its tasks; run "
            "them in that process with unspool.testing.run_all(), or use a spool directory or a server"
        )
    return backend


def usable(given: Sequence[str]) -> list[Backend]:
    """Return the spoolers of a command, after checking each. A note says which do not exist yet and are empty.

    :raises SpoolerUnusable: if one exists but cannot be used.
    """
    found = backends(given)
    for backend in found:
        if not exists(backend):
            note(f"spooler {backend.name} does not exist yet; its first use creates it")
    return found


def existing(given: Sequence[str]) -> list[Backend]:
    """Return the spoolers whose switches a command sets: configured ones, or ones that exist.

    :raises NotThere: for any other, which is most likely a mistyped name.
    """
    found = backends(given)
    for backend in found:
        if not exists(backend) and backend.name not in settings.spooler_names():
            raise NotThere(f"no spooler {backend.name}: it does not exist, and is not among the configured ones")
    return found


def find(id: str, given: Sequence[str]) -> tuple[Backend, Entry] | None:
    """Return the task of an id or of a part of one, and its spooler.

    :raises AmbiguousId: if several tasks have this part.
    """
    return lookup.find_task(id, _candidates(id, given))


def find_ended(id: str, given: Sequence[str]) -> tuple[Backend, Sequence[str]] | None:
    """Return the ids of a task in the history, and its spooler; see ``lookup.find_ended``."""
    return lookup.find_ended(id, _candidates(id, given))


def missing(id: str, given: Sequence[str]) -> str:
    """Return why no task has this id, as text for an error."""
    if os.path.isdir(id):
        return f"{id} is a directory, not a task"
    if found := find_ended(id, given):
        backend, ids = found
        last = max((run for one in ids for run in runs(backend, one, 1)), key=lambda run: run.started)
        ended = durations.moment(last.started + last.duration)
        return f"no task {id} now: it was {last.verdict} at {ended}; see unspool history {id}"
    return f"no task {id}" + (": the file is not a task of these spoolers" if os.path.lexists(id) else "")


def _candidates(id: str, given: Sequence[str]) -> Iterable[Backend]:
    if not given and os.sep not in id:
        backends(given)  # without a path, a spooler must be configured
    return backends(given) if given else map(shared, registry.candidates(id))


def _backend(name: str) -> Backend:
    """Return the spooler of a name.

    :raises NoSpooler: for a name without a slash that is not the base name of a configured spooler.
    """
    path = os.path.expanduser(name)
    if os.sep in path:
        return registry.backend(path if address.is_url(name) else os.path.abspath(path))
    try:
        return registry.backend(name)
    except NoSpooler:
        known = ", ".join(address.basename(one) for one in settings.spooler_names()) or "none"
        raise NoSpooler(
            f"no spooler is named {name!r} (configured: {known}); "
            f"for a directory, write its path with a slash: ./{name}"
        ) from None
