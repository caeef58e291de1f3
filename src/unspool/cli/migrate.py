"""``unspool migrate``: creates or upgrades the schema of a spooler on PostgreSQL."""

from collections.abc import Sequence

import click

from ..backends.base import Migratable
from . import output, spoolers

__all__ = ["COMMANDS"]


@click.command()
@spoolers.spooler_option
def migrate(spooler: Sequence[str]) -> None:
    """Create or upgrade the schema in PostgreSQL.

    Run it once, and after each upgrade of unspool. It may be repeated, and workers may run meanwhile. The role must own
    the schema 'unspool', or be allowed to create it. Directories need no schema.
    """
    for backend in spoolers.backends(spooler):
        name = output.clean(backend.name)
        if not isinstance(backend, Migratable):
            output.line(f"{name} needs no schema")
            continue
        before, after = backend.migrate()
        done = f"has version {after}" if before == after else f"now has version {after}"
        output.line(f"the schema of {name} {done}" + (f", and had {before}" if 0 < before < after else ""))


COMMANDS = [migrate]
