"""Options that several commands have alike."""

from collections.abc import Callable
from typing import Any

import click

__all__ = ["log_format", "log_level", "require_ready"]

require_ready = click.option(
    "--require-ready",
    is_flag=True,
    show_envvar=True,
    help="End with status 3 if a spooler's server cannot be reached now, instead of waiting for it.",
)

log_format = click.option(
    "--log-format",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    show_envvar=True,
    help="Lines for people, or one JSON object a line.",
)


def log_level(what: str) -> Callable[[Any], Any]:
    """The option, with a word on what each level shows."""
    return click.option(
        "--log-level",
        type=click.Choice(["debug", "info", "warning", "error"], case_sensitive=False),
        default="info",
        show_default=True,
        show_envvar=True,
        help=f"The least that is logged: {what}.",
    )
