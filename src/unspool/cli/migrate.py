"""``unspool migrate``: makes and upgrades what a spooler on PostgreSQL needs in its database."""

from collections.abc import Sequence

import click

from ..backends.base import Migratable
from . import output, spoolers

__all__ = ["COMMANDS"]


@click.command()
@spoolers.spooler_option
def migrate(spooler: Sequence[str]) -> None:
    """Make the schema in PostgreSQL, or bring it up to date.

    To be run once, and after each upgrade of unspool; again does no harm, and workers may go on meanwhile. The role
    must own the schema 'unspool', or be allowed to create one. Directories need nothing.
    """
    for backend in spoolers.backends(spooler):
        name = output.clean(backend.name)
        if not isinstance(backend, Migratable):
            output.line(f"{name} needs no schema")
            continue
        before, after = backend.migrate()
        done = f"is of version {after}" if before == after else f"is now of version {after}"
        output.line(f"the schema of {name} {done}" + (f", and was of {before}" if 0 < before < after else ""))


COMMANDS = [migrate]
