"""Check the settings, their sources, and unknown environment variables."""

import contextlib
import os
from collections.abc import Collection, Iterator

from ... import address, routes, settings
from ...errors import ConfigurationError
from ...finding import FAIL, OK, WARN, Finding
from ...printable import counted

__all__ = ["configuration", "variables"]

_UNITS = {"period": "s", "history_age": "s", "history_limit": "runs", "max_task_size": "MB"}


def configuration() -> Iterator[Finding]:
    """Yield the value of each setting, and its source."""
    try:
        chosen, origins = settings.current(), settings.origins()
    except ConfigurationError as error:
        yield Finding("configuration", FAIL, str(error), "correct it there")
        return
    for name, origin in origins.items():
        value = getattr(chosen, name)
        if name == "secret_key":
            yield _secret_key(len(value), origin)
            continue
        if name == "forward":
            value = [f"{one} to {to}" for one in chosen.spoolers if (to := routes.destination(one))]
        text = ", ".join(value) if isinstance(value, tuple | list) else f"{value:g}" if name in _UNITS else f"{value}"
        text = f"{text or 'none'} {_UNITS[name]}" if name in _UNITS else text or "none"
        if name == "spoolers" and origin in os.environ and address.has_relative(os.environ[origin]):
            yield Finding(
                name,
                WARN,
                f"{text} (from {origin}, relative to where each program is started)",
                f"write absolute paths: {origin}={','.join(value)}",
            )
            continue
        yield Finding(name, OK, f"{text} (from {origin})" if origin != "default" else f"{text} (default)")


def _secret_key(keys: int, origin: str) -> Finding:
    if not keys:
        return Finding(
            "secret_key", OK, "none: tasks are not signed, so any user who can write to a spooler can run code"
        )
    text = f"{counted(keys, 'key')}, the first signs; unsigned tasks become corrupt (from {origin})"
    if os.path.basename(origin) == "pyproject.toml":
        return Finding("secret_key", WARN, text, "do not keep a secret in a file beside the code; use "
                       "UNSPOOL_SECRET_KEY, or secret_key_file")  # fmt: skip
    with contextlib.suppress(OSError):
        if os.stat(origin).st_mode & 0o022:
            return Finding("secret_key", WARN, f"{text}, which others may write to", f"chmod go-w {origin}")
    return Finding("secret_key", OK, text)


def variables(known: Collection[str]) -> Iterator[Finding]:
    """Check for environment variables that look like unspool's and are unknown.

    :param known: the variables of all commands' options.
    """
    for name in sorted(os.environ):
        if name.startswith("UNSPOOL_") and name not in known and name not in settings.variables():
            close = settings.similar_variable(name, known)
            yield Finding(name, WARN, "is not a variable that unspool knows", f"did you mean {close}?" if close else "")
