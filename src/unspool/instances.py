"""The backend objects that the program has created, by name.

There is one queue for each name: a later backend of the same name replaces the earlier one.
"""

import os
import re
from collections.abc import Mapping

from . import address
from .backends.base import Backend
from .errors import OptionRefused

__all__ = ["add", "check", "known"]

_MEMBERS = sorted(name for name in vars(Backend) if not name.startswith("_"))
known: Mapping[str, Backend] = {}
"""The backends by name. Each change replaces the mapping, which shows readers that theirs is outdated."""


def add(backend: object, what: str = "backend") -> str:
    """Register a backend in this process, and return its name.

    :param what: how the error message refers to it.
    :raises OptionRefused: as for ``check``.
    """
    global known  # noqa: PLW0603  one for the process, as the settings are
    found = check(backend, what)
    if known.get(found.name) is not found:
        known = {**known, found.name: found}
    return found.name


def check(backend: object, what: str = "backend") -> Backend:
    """Return the backend.

    :raises OptionRefused: unless it has all members of ``base.Backend``, and a name that ids can begin with.
    """
    if isinstance(backend, type):
        raise OptionRefused(f"{what} is the class {backend.__name__}; pass an instance of it")
    missing = [name for name in _MEMBERS if not hasattr(backend, name)]
    if missing == _MEMBERS:
        raise OptionRefused(
            f"{what} is {backend!r:.200}; it must be a backend, such as unspool.testing.MemoryBackend()"
        )
    kind = type(backend).__name__
    if missing:
        raise OptionRefused(
            f"{what} is a {kind}, which lacks {', '.join(missing)}; a backend has all members of "
            "unspool.backends.base.Backend"
        )
    name = backend.name  # type: ignore[attr-defined]  # it has all members
    if not isinstance(name, str) or not (os.path.isabs(name) or address.is_url(name)) or not address.basename(name):
        raise OptionRefused(
            f"{what} is a {kind} with the name {name!r:.200}; a name is an absolute path or a URL, such as "
            "mine://mail, because the ids of tasks begin with it"
        )
    if re.match(r"[^/]*://[^/]*@", name):
        raise OptionRefused(
            f"{what} is a {kind} whose name has a user or password; leave them out, because ids and logs show the name"
        )
    if name.endswith("/"):
        raise OptionRefused(f"{what} is a {kind} with the name {name!r:.200}; a name does not end with a slash")
    return backend  # type: ignore[return-value]  # it has all members
