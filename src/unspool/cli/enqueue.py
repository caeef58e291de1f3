"""``unspool enqueue``: sends one task. It imports no application unless ``--app`` is given."""

import json
import re
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import click

from .. import registry, routes
from ..errors import PayloadRefused
from ..functions import call_message, find_function
from ..message import Message
from ..schedule import check_priority, to_due
from ..spooler import Spooler, raw_message
from . import durations, options, output, spoolers

__all__ = ["COMMANDS"]

_function_name = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")
_keyword = re.compile(r"([^\W\d]\w*)=(.*)", re.DOTALL)
_number = re.compile(r"-[0-9.]", re.ASCII)


@click.command(context_settings={"ignore_unknown_options": True})  # otherwise -5 could not be an argument
@click.argument("function", required=False)
@click.argument("arguments", nargs=-1, metavar="[JSON | NAME=JSON]...")
@click.option("--args", metavar="JSON", show_envvar=True, help="All positional arguments as a JSON array.")
@click.option("--kwargs", metavar="JSON", show_envvar=True, help="All keyword arguments as a JSON object.")
@click.option("--message", metavar="TEXT", show_envvar=True, help="Send this message instead of a function call.")
@click.option("--payload", metavar="JSON", show_envvar=True, help="The payload of the message.")
@click.option(
    "--priority",
    type=options.WholeNumber(),
    metavar="N",
    show_envvar=True,
    help="0 or more; smaller runs first, none after all numbers.",
)
@click.option(
    "--in",
    "delay",
    type=durations.to_timedelta,
    metavar="DURATION",
    envvar="UNSPOOL_ENQUEUE_IN",
    allow_from_autoenv=False,
    show_envvar=True,
    help="Run the task after this time: 90s, 5m, 1h30m, 2d.",
)
@click.option(
    "--at",
    type=durations.to_datetime,
    metavar="TIME",
    show_envvar=True,
    help="Run the task at this time, in ISO 8601; local unless it has an offset.",
)
@click.option(
    "--app",
    metavar="APP",
    show_envvar=True,
    help="Import this application and use the task's own priority, delay and spooler; also checks that it "
    "has the function, and that this takes the arguments.",
)
@options.traceback
@click.option(
    "--spooler",
    type=spoolers.SPOOLER,
    metavar="SPOOLER",
    show_envvar=True,
    help="A spool directory, a URL, or the base name of a configured one. Default: the first configured one.",
)
def enqueue(
    *,
    function: str | None,
    arguments: Sequence[str],
    args: str | None,
    kwargs: str | None,
    message: str | None,
    payload: str | None,
    priority: int | None,
    delay: timedelta | None,
    at: datetime | None,
    app: str | None,
    traceback: bool,
    spooler: str | None,
) -> None:
    """Send a task, and print its id.

    FUNCTION is 'module:function'. Each argument is JSON, or NAME=JSON for a keyword argument; strings are quoted within
    the shell's quotes:

    \b
      unspool enqueue shop:send_mail '"ann@example.com"' copies=2
      unspool enqueue shop:send_mail --args '["ann@example.com"]' --kwargs '{"copies": 2}' --in 5m
      unspool enqueue --message cleanup --payload '{"days": 30}' --at 2030-01-31T08:00
    """
    if delay is not None and at is not None:
        raise click.UsageError("Give --in or --at, not both.")
    if message is not None and (function is not None or args is not None or kwargs is not None or app is not None):
        raise click.UsageError("Give a function call or --message, not both.")
    if message is None and payload is not None:
        raise click.UsageError("--payload goes with --message; a function takes arguments.")
    target = spoolers.backends([spooler])[0].name if spooler else None
    postpone = delay if delay is not None else at
    check_priority(priority)
    if message is not None:
        given = _json(payload, "--payload")
        raw = raw_message(message, priority=priority, postpone=postpone, payload=given, serializer=_serializer(target))
        _send(raw, target)
        return
    if function is None:
        raise click.UsageError("Give a function as 'module:function', or --message.")
    positional, named = _arguments(arguments, args, kwargs)
    if app is not None:
        from ..runtime.app import load_app

        with options.explained(traceback=traceback):
            load_app(app)
        _send_by_app(function, positional, named, {"priority": priority, "postpone": postpone, "spooler": target})
    else:
        _check_name(function)
        due = to_due(postpone)
        _send(call_message(function, positional, named, priority, due, _serializer(target)), target)
        output.note(
            f"nothing has checked that {function} exists; --app APP checks this, and the arguments, before sending"
        )


COMMANDS = [enqueue]


def _serializer(spooler: str | None) -> str:
    """Return the serializer for arguments given as JSON.

    On a server they stay JSON and need no secret key. In a directory they are pickled, because uwsgiconf may read them.
    """
    backend = registry.backend(spooler)
    return "json" if backend.capabilities.remote or routes.destination(backend.name) else "pickle"


def _send(message: Message, spooler: str | Spooler | None) -> None:
    spoolers.shared(registry.backend(None if spooler is None else str(spooler)))
    [id] = Spooler.send_many([message], spooler=spooler)
    _print(id)


def _print(id: str) -> None:
    output.line(output.clean(id) if output.is_terminal() else id)


def _send_by_app(function: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    task = find_function(function).using(**{name: value for name, value in given.items() if value is not None})
    try:
        message = task.message(*args, **kwargs)
    except PayloadRefused as error:
        raise click.UsageError(f"{error}.") from None
    _send(message, task.spooler)


def _check_name(function: str) -> None:
    if not _function_name.fullmatch(function):
        raise click.UsageError(
            f"{function!r} does not name a function; write it as 'module:function'"
            + (f", such as '{':'.join(function.rsplit('.', 1))}'." if function.count(".") else ".")
        )


def _arguments(texts: Sequence[str], args: str | None, kwargs: str | None) -> tuple[tuple[Any, ...], dict[str, Any]]:
    positional: list[Any] = []
    named: dict[str, Any] = {}
    if args is not None:
        positional = _json(args, "--args")
        if not isinstance(positional, list):
            raise click.UsageError("--args must be a JSON array.")
    if kwargs is not None:
        named = _json(kwargs, "--kwargs")
        if not isinstance(named, dict):
            raise click.UsageError("--kwargs must be a JSON object.")
    for text in texts:
        if text.startswith("-") and not _number.match(text):
            raise click.NoSuchOption(text.partition("=")[0])
        keyword = _keyword.fullmatch(text)
        if keyword is None:
            positional.append(_json(text, "argument"))
        elif keyword[1] in named:
            raise click.UsageError(f"Argument {keyword[1]!r} is given twice.")
        else:
            named[keyword[1]] = _json(keyword[2], f"argument {keyword[1]!r}")
    return tuple(positional), named


def _json(text: str | None, what: str) -> Any:
    if text is None:
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        hint = f"; is it a string? Then write '{json.dumps(text)}'." if re.fullmatch(r"[^\[\]{}\"]*", text) else "."
        raise click.UsageError(f"{what} {text[:80]!r} is not JSON{hint}") from None
