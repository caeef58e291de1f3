"""The conversion of the arguments of ``uwsgi.spool()`` into a content."""

import os
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from .. import registry, settings, uwsgi
from ..errors import OptionRefused, PayloadRefused
from ..message import Content
from ..schedule import check_priority, to_due
from ..wire import MAX_VARS, SEAL

__all__ = ["fits", "pack", "send"]

_SEAL = 512  # bytes of the variables reserved for the seal, which includes the signature and the name of the queue


def pack(given: Mapping[Any, Any]) -> Content:
    """Return the content of a program's variables.

    :param given: keys and values are str or bytes, values also numbers. ``body`` is the body. ``priority`` (0 or more),
        ``at`` (Unix time) and ``spooler`` (a directory) have the same meaning as in uWSGI, which reads them as well.
    :raises OptionRefused: if one of these is invalid.
    :raises PayloadRefused: for a key or value of another type, and for a key that is part of unspool's seal.
    """
    vars = {_text(key): _bytes(key, value) for key, value in given.items()}
    if not SEAL.isdisjoint(vars):
        raise PayloadRefused(f"a variable is named {min(SEAL & vars.keys())!r}, which is unspool's own; rename it")
    body = vars.pop("body", b"")
    return Content(vars, body, _priority(vars.get("priority")), _due(vars.get("at")))


def fits(vars: Mapping[str, bytes]) -> bool:
    """Return whether uWSGI's format can hold these variables."""
    sizes = (4 + len(key.encode("utf-8", "surrogateescape")) + len(value) for key, value in vars.items())
    return sum(sizes) <= MAX_VARS - _SEAL


def send(content: Content, spooler: bytes | None = None) -> bytes:
    """Send to a spooler, or to the default one. Return the path of the task's file, as uWSGI does.

    :raises PayloadRefused: if the variables or the body are too large. uWSGI would truncate the variables.
    :raises NoSpooler, SpoolerUnusable: if the spooler cannot take the task. Nothing was sent, unless the error's
        ``sent`` has the task's id.
    """
    if not fits(content.vars):
        raise PayloadRefused(f"the variables take more than {MAX_VARS} bytes; put what is large under 'body'")
    settings.check_sizes([content])
    uwsgi.enter()
    backend = registry.backend(os.fsdecode(spooler) if spooler else None)
    [id] = backend.send([registry.seal(backend).close(content)])
    return os.fsencode(id)


def _text(key: Any) -> str:
    if not isinstance(key, str | bytes):
        raise PayloadRefused(f"the key {key!r} is a {type(key).__name__}; keys are str or bytes")
    return key if isinstance(key, str) else key.decode("utf-8", "surrogateescape")


def _bytes(key: Any, value: Any) -> bytes:
    match value:
        case bytes():
            return value
        case str():
            return value.encode()
        case int() | float():
            return str(value).encode()
    raise PayloadRefused(f"the value of {key!r} is a {type(value).__name__}; values are str, bytes or numbers")


def _priority(value: bytes | None) -> int | None:
    if value is None:
        return None
    try:
        priority = int(value)
    except ValueError:
        raise OptionRefused(f"priority is {value!r}; it must be a whole number of 0 or more") from None
    check_priority(priority)
    return priority


def _due(value: bytes | None) -> float | None:
    if value is None:
        return None
    try:
        at = datetime.fromtimestamp(float(value), UTC)
    except (ValueError, OverflowError, OSError):
        raise OptionRefused(f"at is {value!r}; it must be a time in unix seconds") from None
    return to_due(at)
