"""Settings, and the only place that picks a concrete backend.

Each setting comes from ``configure()``, else from the environment (``UNSPOOL_<NAME>``), else from ``[tool.unspool]`` in
the nearest ``pyproject.toml`` of the directory in which the program began and those above it; spoolers also, at last,
from uWSGI's options. Nothing is read before it is needed.
"""

import contextlib
import importlib
import importlib.util
import os
import re
import sys
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from datetime import timedelta
from functools import partial
from math import nan
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypedDict, Unpack

from . import address, wire
from .backends.base import Backend, check_period
from .backends.depot import Depot, Movable
from .errors import ConfigurationError, NoSpooler, OptionRefused, PayloadRefused, UnspoolError
from .imports import late
from .message import Envelope
from .schedule import duration
from .signing import Signer, check_keys

if TYPE_CHECKING:
    from .runtime.carrier import Carrier
    from .runtime.inside import Inside, SpoolerHandler

__all__ = [
    "Settings",
    "backend",
    "candidates",
    "carrier",
    "check_sizes",
    "configure",
    "destination",
    "origins",
    "redirect",
    "settings",
    "spooler_names",
]

_HOW = (
    "set UNSPOOL_SPOOLERS=/path/to/directory, or call unspool.configure(spoolers=[...]), "
    "or write spoolers = [...] under [tool.unspool] in pyproject.toml"
)


class _Ground(NamedTuple):
    """The backend of a URL's scheme: a class, the package that it needs, and how to install that package."""

    module: str
    backend: str
    driver: str
    install: str


_GROUNDS = {
    "postgresql": _Ground("unspool.backends.postgres", "PostgresBackend", "psycopg", "psycopg[binary]"),
    "nats": _Ground("unspool.backends.nats", "NatsBackend", "nats", "nats-py"),
}


class Settings(NamedTuple):
    """All settings of a process.

    :param spoolers: the spoolers' names: absolute paths of directories, and URLs of servers without user and password.
        The first one is the default.
    :param durability: ``full`` syncs each task to the disk before its call returns; ``relaxed`` leaves that to the
        kernel.
    :param period: seconds between full scans of a directory, in addition to the kernel's change events.
    :param history_limit: runs kept in each spooler's history; 0 for none.
    :param history_age: seconds for which runs are kept.
    :param max_task_size: the maximum size of a task's payload, in megabytes.
    :param secret_key: the secret keys. The first one signs each task that is sent. A task runs only if one of the keys
        verifies it. Without keys, tasks are not signed.
    :param secret_key_file: the absolute path of a file with the keys, one a line, in place of ``secret_key``.
    :param forward: the URLs to which the tasks of directories are forwarded, by base name; an empty name stands for all
        others. See ``destination``.
    """

    spoolers: tuple[str, ...] = ()
    durability: str = "full"
    period: float = 300.0
    history_limit: int = 100_000
    history_age: float = 7 * 86400.0
    max_task_size: float = 256.0
    secret_key: tuple[str, ...] = ()
    secret_key_file: str = ""
    forward: tuple[tuple[str, str], ...] = ()

    def __repr__(self) -> str:
        """Without what others must not read: keys, and URLs that may have passwords."""
        shown = {name: value for name, value in self._asdict().items() if name not in ("secret_key", "forward")}
        return f"Settings({', '.join(f'{name}={value!r}' for name, value in shown.items())})"


class SettingsKeywords(TypedDict, total=False):
    """The keyword arguments of ``configure``; None resets a setting to the environment."""

    spoolers: Sequence[str | os.PathLike[str]] | str | None
    durability: Literal["full", "relaxed"] | None
    period: float | timedelta | str | None
    history_limit: int | None
    history_age: float | timedelta | str | None
    max_task_size: float | None
    secret_key: Sequence[str] | str | None
    secret_key_file: str | os.PathLike[str] | None
    forward: Mapping[str, str] | str | None


_NAMES = Settings._fields
_NAMED = r"(?:([^:/=]+)=)?(.*)"
_SECRETS = ("secret_key", "secret_key_file")  # empty, they are a mistake, and not the same as unset
_MEGABYTE = 1 << 20
_MAX_TASK_SIZE = 1_000_000  # megabytes
_MAX_KEY_FILE = 1 << 16  # characters
_lock = threading.Lock()
_configured: dict[str, Any] = {}
_settings: Settings | None = None
_backends: dict[str, Backend] = {}
_named_backends: dict[str | None, Backend] = {}  # by how they were asked for, which each send does
_addresses: dict[str, address.Address] = {}  # of servers' spoolers, by name; they know the passwords
_redirection: Callable[[str], Backend] | None = None
_handler: "SpoolerHandler | None" = None
_inside: list["Inside"] | None = None  # uWSGI's own spoolers, which each of its offers asks for
_start: str | None = None  # the working directory at import, because programs and uWSGI's spoolers change it later
with contextlib.suppress(OSError):  # the directory was removed
    _start = os.getcwd()


def configure(**values: Unpack[SettingsKeywords]) -> None:
    """Set settings for this process, which override the environment and ``pyproject.toml``. Calls are cumulative.

    :param values: the fields of :class:`Settings`; None resets one to the environment. Relative directories are
        resolved now. ``period`` and ``history_age`` also accept a timedelta, or a duration such as ``5m``.
    :raises ConfigurationError: if a setting is unknown or has an invalid value; then nothing is changed.
    """
    global _settings, _configured, _inside  # noqa: PLW0603  the process's settings are one thing
    merged = _configured | {
        name: _parse(name, value, os.getcwd(), "configure()") for name, value in values.items() if value is not None
    }
    for name in [name for name, value in values.items() if value is None]:
        merged.pop(name, None)
    with _lock:
        _configured = merged
        _settings = None
        _backends.clear()
        _named_backends.clear()
        _inside = None


def settings() -> Settings:
    """Return the settings in force.

    :raises ConfigurationError: if one from the environment or a file cannot be used.
    """
    global _settings  # noqa: PLW0603  read once
    if _settings is None:
        found: dict[str, Any] = {}
        for layer, _ in _layers():
            if not layer.keys().isdisjoint(_SECRETS):  # either stands for both: a key replaces a file, and the reverse
                found = {name: value for name, value in found.items() if name not in _SECRETS}
            found |= layer
        if "secret_key_file" in found:
            found["secret_key"] = _keys_of(found)
        if not found.get("spoolers"):
            found["spoolers"] = _from_uwsgi()
        _settings = Settings(**found)
    return _settings


def origins() -> dict[str, str]:
    """Where the value of each setting comes from, for a person to read.

    :raises ConfigurationError: if a ``pyproject.toml`` cannot be read.
    """
    found = dict.fromkeys(_NAMES, "default")
    for layer, origin in _layers():
        if not layer.keys().isdisjoint(_SECRETS):
            found |= dict.fromkeys(_SECRETS, "default")
        found |= {name: origin or _variable(name) for name in layer}
    if file := settings().secret_key_file:
        found["secret_key"] = file
    if found["spoolers"] == "default" and spooler_names():
        found["spoolers"] = "uWSGI's options"
    return found


def spooler_names() -> tuple[str, ...]:
    """Return the names of the configured spoolers."""
    return settings().spoolers


def spooler_name(text: str) -> str:
    """Return the name of the spooler at a path or URL. A password in the URL is kept for opening the spooler.

    :raises OptionRefused: for an invalid URL, or a path that begins with a quote, ``$`` or an unknown ``~user``.
    """
    if not address.is_url(text):
        address.directory(text)
        return text
    found = address.parse(text)
    if text != found.name or text not in _addresses:  # a name has no password to be kept
        _addresses[found.name] = found
    return found.name


def basename(name: str) -> str:
    """Return the last part of a spooler's name."""
    return name.rstrip("/").rpartition("/")[2]


def backend(name: str | None = None) -> Backend:
    """Return the backend of a spooler: of the default one, a directory, a URL, or a configured base name.

    :raises NoSpooler: if none is configured, or none has this name.
    :raises ConfigurationError: if what this kind of spooler needs is not installed.
    """
    found = _named_backends.get(name)
    if found is None:
        found = _find_backend(name)
        with _lock:
            # A relative path depends on the working directory; and the settings may have changed meanwhile.
            if (name is None or name == found.name) and _backends.get(found.name) is found:
                _named_backends[name] = found
    return found


def _find_backend(name: str | None) -> Backend:
    known = spooler_names()
    if name is None:
        if not known:
            raise NoSpooler(f"no spooler is configured; {_HOW}{_misspelt()}")
        name = known[0]
    elif not os.path.isabs(name) and os.sep not in name:
        named = [one for one in known if basename(one) == name]
        if not named and _redirection is not None:
            return _redirection(name)
        if not named:
            raise NoSpooler(f"no spooler is named {name!r} (there are: {', '.join(known) or 'none'}); {_HOW}")
        name = named[0]
    place = spooler_name(name) if address.is_url(name) else os.path.abspath(address.directory(name))
    if _redirection is not None:
        return _redirection(place)
    with _lock:
        if place not in _backends:
            _backends[place] = _open_server(_addresses[place]) if place in _addresses else _open(place)
        return _backends[place]


def redirect(redirection: Callable[[str], Backend] | None) -> None:
    """Replace the backend of each spooler with the one that a function returns for its name; None ends this.

    For tests: no task is sent to a real spooler while it is set.
    """
    global _redirection  # noqa: PLW0603  the process's settings are one thing
    with _lock:
        _redirection = redirection
        _named_backends.clear()


def redirection() -> Callable[[str], Backend] | None:
    """Return the function that ``redirect`` has set."""
    return _redirection


def candidates(id: str) -> Iterator[Backend]:
    """Yield the backends that may have a task of this id: the configured ones, then the one that the id names.

    :param id: as ``Backend.find`` takes it.
    """
    with late:
        from .backends.spool.layout import spooler_of

    names = spooler_names()
    if address.is_url(id):  # a URL names its spooler, and no other can have the id
        with contextlib.suppress(OptionRefused):  # then it is not an id of unspool
            yield backend(address.place_of(id))
        return
    yield from map(backend, names)
    place = spooler_of(os.path.abspath(id))
    if os.sep in id and place not in names and os.path.lexists(place):  # False for what no path can be, too
        yield backend(place)


def check_sizes(envelopes: Sequence[Envelope]) -> None:
    """Check that no payload is larger than ``max_task_size``.

    :raises PayloadRefused: if one is.
    """
    limit = settings().max_task_size * _MEGABYTE
    for envelope in envelopes:
        if (size := len(envelope.body)) > limit:
            raise PayloadRefused(
                f"the payload takes {size} bytes, and max_task_size allows {limit / _MEGABYTE:g} MB; pass what is "
                "large by the path of a file, or raise UNSPOOL_MAX_TASK_SIZE for senders and workers"
            )


def destination(name: str) -> str | None:
    """Where the tasks of a spooler are forwarded to: the name of another; None if they are run where they are.

    :raises ConfigurationError: if the queue there cannot have this one's name.
    """
    found = dict(settings().forward)
    url = None if address.is_url(name) else found.get(basename(name), found.get(""))
    if url is None:
        return None
    try:
        place = address.parse_for(url, _queue(name))
    except OptionRefused as error:
        raise ConfigurationError(f"the tasks of {name} cannot be forwarded: {error}") from None
    _addresses[place.name] = place
    return place.name


def carrier(source: Backend, destination: Backend, *, vouch: bool = False, refuse: bool = False) -> "Carrier":
    """Return a carrier of tasks from one spooler to another.

    :param vouch: True to sign, where a secret key is set, what carries no signature at all.
    :param refuse: True to set what cannot go there aside as corrupt.
    :raises OptionRefused: if they are the same spooler, or of a kind that tasks cannot be carried from or to.
    """
    with late:
        from .runtime.carrier import Carrier

    if _real(source.name) == _real(destination.name):
        raise OptionRefused(f"spooler {source.name} and {destination.name} are the same; name two")
    queue = _queue(destination.name)
    readdress = partial(wire.readdress, queue=queue, old=_signer(_queue(source.name)), new=_signer(queue), vouch=vouch)
    return Carrier(_depot(source), _depot(destination), destination.name, readdress, refuse=refuse)


def _depot(one: Backend) -> Depot:
    if not isinstance(one, Movable):
        raise OptionRefused(f"spooler {one.name} is of a kind that tasks cannot be carried from or to")
    return one.depot


def _real(name: str) -> str:
    return name if address.is_url(name) else os.path.realpath(name)


def _queue(name: str) -> str:
    """Return the name of the queue for which the tasks of a spooler are signed, after resolving links."""
    return basename(_real(name))


def _variable(name: str) -> str:
    return f"UNSPOOL_{name.upper()}"


def _layers() -> Iterator[tuple[dict[str, Any], str]]:
    """Yield the settings of each source and what it is called, from the least to the most important; the environment is
    called by the variables.

    :raises ConfigurationError: as ``settings``.
    """
    project, base = _project()
    source = "[tool.unspool] in pyproject.toml"
    values = {name: _parse(name, value, base, source) for name, value in project.items()}
    yield values, os.path.join(base, "pyproject.toml")
    here = _start or os.getcwd()
    yield (
        {name: _parse(name, os.environ[_variable(name)], here, _variable(name)) for name in _NAMES if _is_set(name)},
        "",
    )
    yield _configured, "configure()"


def variables() -> list[str]:
    """Return the environment variables of all settings."""
    return [_variable(name) for name in _NAMES]


def similar_variable(name: str, known: Collection[str] = ()) -> str:
    """Return the variable that a misspelt one probably stands for; an empty string if none is similar.

    :param known: further variables, such as those of a command's options.
    """
    with late:
        from difflib import get_close_matches

    return next(iter(get_close_matches(name, [*variables(), *known], 1, 0.8)), "")


def _misspelt() -> str:
    """Return a hint about variables that look like misspelt settings, for the error about a missing setting."""
    found = [
        f"{name} is set; did you mean {meant}?"
        for name in sorted(os.environ)
        if name.startswith("UNSPOOL_") and name not in variables() and (meant := similar_variable(name))
    ]
    return f" ({' '.join(found)})" if found else ""


def _is_set(name: str) -> bool:
    """Return whether the environment has the setting. Shells and service managers leave empty variables for none."""
    value = os.environ.get(_variable(name))
    return value is not None and (value != "" or name in _SECRETS)


def enter_uwsgi() -> None:
    """Inside uWSGI, has its spoolers call our handler; elsewhere nothing. May be called again and again.

    A handler of the program's own is kept for the messages that are not ours.
    """
    global _handler  # noqa: PLW0603  the process's handler is one thing
    uwsgi = sys.modules.get("uwsgi")
    if uwsgi is None or (_handler is not None and getattr(uwsgi, "spooler", None) is _handler):
        return
    with late:
        from .backends.uwsgi import install, module

    if module() is None:
        return
    if _handler is None:
        with late:
            from .runtime.inside import SpoolerHandler

        _handler = SpoolerHandler(_insides)
    install(_handler, _handler.keep)
    try:
        for inside in _insides():
            inside.enter()
    except (UnspoolError, OSError) as error:  # an import is no place to fail; sending will say it again
        _handler.complain(str(error))


def _insides() -> list["Inside"]:
    global _inside  # noqa: PLW0603  this uWSGI is one thing
    if _inside is None:
        with late:
            from .backends.uwsgi import UwsgiBackend, spoolers

        found = [backend(name) for name in spoolers()]
        _inside = [one for one in found if isinstance(one, UwsgiBackend)]
    return _inside


def _open(path: str) -> Backend:
    with late:
        from .backends.spool import SpoolBackend
        from .backends.uwsgi import UwsgiBackend, frequency, module, spoolers

    chosen = settings()
    uwsgi = module()
    inside = uwsgi is not None and os.path.realpath(path) in spoolers()
    where, signer = destination(path), _signer(_queue(path))
    if inside and where:
        raise ConfigurationError(
            f"spooler {path} is one of uWSGI's, which runs what is in it, and cannot be forwarded to {where} as well; "
            "name another directory in UNSPOOL_SPOOLERS"
        )
    store = SpoolBackend(
        path,
        durable=chosen.durability == "full",
        period=(inside and frequency()) or chosen.period,
        history_limit=chosen.history_limit,
        history_age=chosen.history_age,
        max_size=int(chosen.max_task_size * _MEGABYTE),
        signer=signer,
        pickles=signer is not None or not where,
    )
    return UwsgiBackend(store, uwsgi) if inside and uwsgi is not None else store


def _open_server(place: address.Address) -> Backend:
    ground = _GROUNDS[place.scheme]
    if importlib.util.find_spec(ground.driver) is None:
        raise ConfigurationError(
            f"spooler {place.name} needs the package {ground.driver}: pip install '{ground.install}'"
        )
    with late:
        make = getattr(importlib.import_module(ground.module), ground.backend)
    made: Backend = make(place, settings(), signer=_signer(_queue(place.name)))
    return made


def _signer(queue: str) -> Signer | None:
    """Return the signer of a queue's tasks; None if no secret key is set."""
    keys = settings().secret_key
    return Signer(keys, queue) if keys else None


def _from_uwsgi() -> tuple[str, ...]:
    if "uwsgi" not in sys.modules:
        return ()
    with late:
        from .backends import uwsgi

    return tuple(uwsgi.spoolers())


def _project() -> tuple[Mapping[str, Any], str]:
    """Return the project's table and the directory that its paths are relative to."""
    place = _start or os.getcwd()
    while True:
        path = os.path.join(place, "pyproject.toml")
        if os.path.isfile(path):
            with late:
                import tomllib

            with open(path, "rb") as file:
                try:
                    table = tomllib.load(file).get("tool", {}).get("unspool", {})
                except (tomllib.TOMLDecodeError, UnicodeDecodeError, AttributeError) as error:
                    raise ConfigurationError(f"{path} cannot be read: {error}") from error
            if not isinstance(table, dict):
                raise ConfigurationError(f"{path} cannot be read: tool.unspool is {table!r}, and no table")
            return table, place
        above = os.path.dirname(place)
        if above == place:
            return {}, place
        place = above


def _parse(name: str, value: Any, base: str, source: str) -> Any:
    try:
        match name:
            case "spoolers":
                return _spoolers(value, base)
            case "durability":
                if value not in ("full", "relaxed"):
                    raise OptionRefused(f"durability is {value!r}; it is 'full' or 'relaxed'")
                return value
            case "period" | "history_age":
                return check_period(_seconds(value))
            case "history_limit":
                return _whole(value)
            case "max_task_size":
                return _megabytes(value)
            case "secret_key":
                return check_keys(value.split(",") if isinstance(value, str) else value)
            case "forward":
                return _forward(value)
            case "secret_key_file":
                if not value:
                    raise OptionRefused("it is empty; name a file, or unset it to work without signatures")
                return os.path.normpath(os.path.join(base, os.path.expanduser(os.fspath(value))))
    except (OptionRefused, ValueError, TypeError) as error:
        raise ConfigurationError(f"{name} from {source} cannot be used: {error}") from error
    raise ConfigurationError(f"{source} has {name!r}, which is no setting; there are {', '.join(_NAMES)}")


def _keys_of(found: Mapping[str, Any]) -> tuple[str, ...]:
    path = found["secret_key_file"]
    if "secret_key" in found:
        raise ConfigurationError(f"secret_key and secret_key_file ({path}) are both set; set one of them")
    try:
        with open(path, encoding="utf-8") as file:
            lines = file.read(_MAX_KEY_FILE).splitlines()
        return check_keys([line for line in lines if line.strip()])
    except (OSError, UnicodeDecodeError, OptionRefused) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ConfigurationError(f"secret_key_file {path} cannot be used: {reason}") from None


def _forward(value: Any) -> tuple[tuple[str, str], ...]:
    """``URL``, ``NAME=URL, ...``, or a table of names and URLs."""
    if isinstance(value, str):
        given = [re.fullmatch(_NAMED, part, re.DOTALL) for part in address.split(value)]
        pairs = [(part[1] or "", part[2]) for part in given if part]
    elif isinstance(value, Mapping):
        pairs = [(str(name), url) for name, url in value.items()]
    else:
        raise OptionRefused(f"it is a {type(value).__name__}; it is a URL, or for several spoolers NAME=URL, NAME=URL")
    for name, url in pairs:
        if not isinstance(url, str) or not address.is_url(url):
            raise OptionRefused(f"tasks{name and f' of {name!r}'} are forwarded to a URL, such as postgresql://db/app")
        address.parse_for(url, "any")
    if len(dict(pairs)) < len(pairs):
        raise OptionRefused("a spooler is named twice")
    return tuple(pairs)


def _seconds(value: Any) -> Any:
    """Return the seconds of a number, a timedelta, or a duration as text."""
    if isinstance(value, timedelta):
        return value.total_seconds()
    return duration(value) if isinstance(value, str) else value


def _megabytes(value: Any) -> float:
    size = _number(value)
    if not 0 < size <= _MAX_TASK_SIZE:
        raise OptionRefused(f"{value!r} is not a number of megabytes above 0 and up to {_MAX_TASK_SIZE}")
    return size


def _whole(value: Any) -> int:
    number = _number(value)
    if not 0 <= number < float("inf") or number != int(number):
        raise OptionRefused(f"{value!r} is not a whole number of 0 or more")
    return int(number)


def _number(value: Any) -> float:
    """Return a number or numeric text as a float; nan for anything else, which no setting accepts."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return nan
    try:
        return float(value)
    except ValueError:
        return nan


def _spoolers(value: Any, base: str) -> tuple[str, ...]:
    parts = address.split(value) if isinstance(value, str) else [os.fspath(part).strip() for part in value]
    return tuple(
        spooler_name(part) if address.is_url(part) else os.path.normpath(os.path.join(base, address.directory(part)))
        for part in parts
        if part
    )


def _renew_lock() -> None:
    global _lock  # noqa: PLW0603  another thread may have held it when this process was forked
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_renew_lock)
