"""Options shared by several commands."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import click

from ..errors import AppError
from . import output

__all__ = ["Number", "WholeNumber", "explained", "log_format", "log_level", "require_ready", "traceback"]


class WholeNumber(click.IntRange):
    """A whole number in a range. Errors use this name."""

    name = "whole number"


class Number(click.FloatRange):
    """A number in a range. Errors use this name."""

    name = "number"


traceback = click.option(
    "--traceback", is_flag=True, show_envvar=True, help="Print the whole traceback if APP cannot be imported."
)


@contextlib.contextmanager
def explained(*, traceback: bool) -> Iterator[None]:
    """Print the traceback of an application that cannot be imported, or say how to see it."""
    try:
        yield
    except AppError as error:
        if not error.traceback:
            raise
        if not traceback:
            raise AppError(f"{error} (--traceback shows more)") from error
        output.lines(error.traceback)
        raise


require_ready = click.option(
    "--require-ready",
    is_flag=True,
    show_envvar=True,
    help="Exit with status 3 if the server of a spooler cannot be reached now, instead of waiting for it.",
)

log_format = click.option(
    "--log-format",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    show_envvar=True,
    help="Text for people, or one JSON object per line.",
)


def log_level(what: str) -> Callable[[Any], Any]:
    """Return the option, with a description of what each level shows."""
    return click.option(
        "--log-level",
        type=click.Choice(["debug", "info", "warning", "error"], case_sensitive=False),
        default="info",
        show_default=True,
        show_envvar=True,
        help=f"The lowest level that is logged ({what}).",
    )
