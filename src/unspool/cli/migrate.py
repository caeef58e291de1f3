"""``unspool migrate``: creates or upgrades the schema of a spooler on PostgreSQL."""

from collections.abc import Sequence

import click

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
        done = [finding.text for finding in backend.check(prepare=True)]
        for text in done or [f"{backend.name} needs no schema"]:
            output.line(output.clean(text))


COMMANDS = [migrate]
