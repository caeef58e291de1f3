"""The choice of a spooler's backend: by the scheme of a URL, the path of a directory, or the name of an instance."""

import contextlib
import importlib
import importlib.util
import os
import threading
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from . import address, forks, instances, settings
from .address import Address
from .backends.base import Backend
from .errors import ConfigurationError, NoSpooler, OptionRefused
from .imports import late
from .routes import destination
from .seal import Seal
from .settings import Settings
from .signing import Signer

__all__ = ["backend", "candidates", "redirect", "redirection", "seal"]

_HOW = (
    "set UNSPOOL_SPOOLERS=/path/to/directory, or call unspool.configure(spoolers=[...]), "
    "or write spoolers = [...] under [tool.unspool] in pyproject.toml"
)


class _Server(NamedTuple):
    """The backend of a URL's scheme: a class, the package that it always needs, if any, and how to install it."""

    module: str
    backend: str
    driver: str = ""
    install: str = ""


_SERVERS = {
    "postgresql": _Server("unspool.backends.postgres", "PostgresBackend", "psycopg", "psycopg[binary]"),
    "nats": _Server("unspool.backends.nats", "NatsBackend"),
}


class _Opened:
    """The backends that were opened for one state of the settings."""

    def __init__(self, chosen: Settings | None) -> None:
        self.settings = chosen
        self.instances = instances.known
        self.backends: dict[str, Backend] = {}
        self.asked: dict[str | None, Backend] = {}  # by the name that was asked for; each send asks
        self.seals: dict[str, Seal] = {}  # by the name of the spooler; each send asks


_lock = threading.Lock()
_opened = _Opened(None)
_redirection: Callable[[str], Backend] | None = None


def backend(name: str | None = None) -> Backend:
    """Return the backend of a spooler.

    :param name: a directory, a URL, the name of an instance, or a configured base name; None for the default spooler.

    :raises NoSpooler: if none is configured, or none has this name.
    :raises ConfigurationError: if a package that this kind of spooler needs is not installed.
    """
    forks.check()
    opened = _opened
    if (
        opened.settings is settings.current()
        and opened.instances is instances.known
        and (found := opened.asked.get(name)) is not None
    ):
        return found
    return _find(name)


def _find(name: str | None) -> Backend:
    global _opened  # noqa: PLW0603  a process opens each backend once
    chosen = settings.current()
    path = _resolve(name, chosen)
    if _redirection is not None:
        return _redirection(path)
    with _lock:
        if _opened.settings is not chosen:
            _opened = _Opened(chosen)
        if _opened.instances is not instances.known:
            _opened.instances = instances.known
            _opened.asked.clear()
        if (found := instances.known.get(path, _opened.backends.get(path))) is None:
            found = _opened.backends[path] = _open(path, chosen)
        if _redirection is None and (name is None or name == path):  # a relative path depends on the working directory
            _opened.asked[name] = found
    return found


def _resolve(name: str | None, chosen: Settings) -> str:
    """Return the absolute path of a directory, or the name of an instance or of a spooler on a server. With a
    redirection, return an unknown base name unchanged.

    :raises NoSpooler: as for ``backend``.
    """
    known = chosen.spoolers
    if name is None:
        if not known:
            raise NoSpooler(f"no spooler is configured; {_HOW}{settings.misspelt()}")
        name = known[0]
    elif name not in instances.known and not os.path.isabs(name) and os.sep not in name:
        named = [one for one in known if address.basename(one) == name]
        if not named and _redirection is not None:
            return name
        if not named:
            raise NoSpooler(f"no spooler is named {name!r} (there are: {', '.join(known) or 'none'}); {_HOW}")
        name = named[0]
    if name in instances.known:
        return name
    return address.name_of(name) if address.is_url(name) else os.path.abspath(address.directory(name))


def redirect(redirection: Callable[[str], Backend] | None) -> None:
    """Replace the backend of each spooler with the one that a function returns for its name; None ends this.

    For tests: no task is sent to a real spooler while it is set.
    """
    global _redirection  # noqa: PLW0603  it applies to all that the process sends
    with _lock:
        _redirection = redirection
        _opened.asked.clear()


def redirection() -> Callable[[str], Backend] | None:
    """Return the function that ``redirect`` has set."""
    return _redirection


def candidates(id: str) -> Iterator[Backend]:
    """Yield the backends that may have a task of this id: the configured ones, then the one that the id names.

    :param id: as for ``Backend.find``.
    """
    if (name := address.spooler_of_id(id)) in instances.known:  # no other can have the id
        yield backend(name)
        return
    with late:
        from .backends.spool.layout import spooler_of

    names = settings.spooler_names()
    if address.is_url(id):  # a URL names its spooler, and no other can have the id
        with contextlib.suppress(OptionRefused):  # then it is not an id of unspool
            yield backend(address.spooler_of_id(id))
        return
    yield from map(backend, names)
    path = spooler_of(os.path.abspath(id))
    if os.sep in id and path not in names and os.path.lexists(path):  # also False for an impossible path
        yield backend(path)


def _signer(name: str, chosen: Settings) -> Signer | None:
    return Signer(chosen.secret_key, address.queue_of(name)) if chosen.secret_key else None


def seal(backend: Backend) -> Seal:
    """Return the seal of a spooler's tasks."""
    opened, name = _opened, backend.name
    if opened.settings is settings.current() and (found := opened.seals.get(name)) is not None:
        return found
    chosen = settings.current()
    key = _signer(name, chosen)
    remote = backend.capabilities.remote
    forwarded = key is None and not address.is_url(name) and bool(destination(name))
    made = Seal(name, key, key is not None or not remote, forwarded)
    if opened.settings is chosen:
        opened.seals[name] = made
    return made


def _open(path: str, chosen: Settings) -> Backend:
    return _open_server(address.recall(path), chosen) if address.is_url(path) else _open_directory(path, chosen)


def _open_server(server: Address, chosen: Settings) -> Backend:
    if server.scheme == "memory":
        return _open_memory(server, chosen)
    if server.scheme not in _SERVERS:
        return _open_installed(server, chosen)
    kind = _SERVERS[server.scheme]
    if kind.driver and importlib.util.find_spec(kind.driver) is None:
        raise ConfigurationError(f"spooler {server.name} needs the package {kind.driver}: pip install '{kind.install}'")
    with late:
        make = getattr(importlib.import_module(kind.module), kind.backend)
    made: Backend = make(server, chosen)
    return made


def _open_memory(server: Address, chosen: Settings) -> Backend:
    with late:
        from .backends.memory import MemoryBackend

    made = MemoryBackend(server.name, period=chosen.period)
    instances.add(made)  # its tasks must outlive a change of the settings
    return made


def _open_installed(server: Address, chosen: Settings) -> Backend:
    """Open the backend of an installed package. Its entry point is called as ``PostgresBackend`` is."""
    found = address.entry_point(server.scheme)
    if found is None:
        raise ConfigurationError(f"spooler {server.name} needs a package that adds the backend {server.scheme}")
    problem = f"spooler {server.name} cannot be opened: its backend {found.value}"
    try:
        with late:
            make = found.load()
    except (ImportError, AttributeError) as error:
        raise ConfigurationError(f"{problem} cannot be imported: {error}") from error
    try:
        made = instances.check(make(server, chosen), "what it returns")
    except OptionRefused as error:
        raise ConfigurationError(f"{problem} cannot be used: {error}") from None
    if made.name != server.name:
        raise ConfigurationError(f"{problem} is named {made.name}; it must have the name of the address")
    return made


def _open_directory(path: str, chosen: Settings) -> Backend:
    with late:
        from .backends.spool import SpoolBackend
        from .backends.spool.uwsgi.server import frequency, module, spoolers

    uwsgi = module()
    inside = uwsgi is not None and os.path.realpath(path) in spoolers()
    where = destination(path)
    if inside and where:
        raise ConfigurationError(
            f"spooler {path} is one of uWSGI's, which runs what is in it, and cannot be forwarded to {where} as well; "
            "name another directory in UNSPOOL_SPOOLERS"
        )
    options: dict[str, Any] = {
        "durable": chosen.durability == "full",
        "period": (inside and frequency()) or chosen.period,
        "history_limit": chosen.history_limit,
        "history_age": chosen.history_age,
        "max_size": int(chosen.max_task_size * settings.MEGABYTE),
        "signed": bool(chosen.secret_key),
    }
    if uwsgi is None or not inside:
        return SpoolBackend(path, **options)
    with late:
        from .backends.spool.uwsgi.backend import UwsgiBackend

    return UwsgiBackend(path, uwsgi, **options)


def _renew_lock() -> None:
    global _lock  # noqa: PLW0603  another thread may have held it when this process was forked
    _lock = threading.Lock()


forks.register(after_in_child=_renew_lock)
