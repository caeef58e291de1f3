"""The settings of a process, and the source of each.

A setting comes from the first of these that has it: ``configure()``; the environment (``UNSPOOL_<NAME>``);
``[tool.unspool]`` in the nearest ``pyproject.toml``, in the directory in which the program was started or one of its
parents; for spoolers, uWSGI's options. They are read when they are needed.
"""

import contextlib
import os
import re
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from datetime import timedelta
from math import nan
from typing import Any, Literal, NamedTuple, TypedDict, Unpack

from . import address, instances
from .backends.base import Backend, check_period
from .errors import ConfigurationError, OptionRefused, PayloadRefused
from .imports import late
from .message import Content
from .schedule import duration
from .signing import check_keys

__all__ = [
    "MEGABYTE",
    "Settings",
    "SettingsKeywords",
    "check_sizes",
    "configure",
    "current",
    "misspelt",
    "origins",
    "override",
    "similar_variable",
    "spooler_names",
    "variables",
]

MEGABYTE = 1 << 20


class Settings(NamedTuple):
    """All settings of a process.

    :param spoolers: the names of the spoolers: absolute paths of directories, and URLs of servers without user and
        password. The first one is the default. ``configure`` also accepts backends, whose names are kept here.
    :param durability: ``full`` syncs each task to the disk before its call returns; ``relaxed`` leaves that to the
        kernel.
    :param period: seconds between full scans of a directory, in addition to the kernel's change events.
    :param history_limit: runs kept in each spooler's history; 0 for none.
    :param history_age: seconds for which runs are kept.
    :param max_task_size: the maximum size of a task's payload, in megabytes.
    :param secret_key: the secret keys. The first one signs each task that is sent. A task runs only if one of the keys
        verifies it. Without keys, tasks are not signed.
    :param secret_key_file: the absolute path of a file with the keys, one per line, instead of ``secret_key``.
    :param forward: the URLs to which the tasks of directories are forwarded, by base name; an empty name stands for all
        others. See ``routes.destination``.
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
        """Return the settings without keys, and without URLs that may contain passwords."""
        shown = {name: value for name, value in self._asdict().items() if name not in ("secret_key", "forward")}
        return f"Settings({', '.join(f'{name}={value!r}' for name, value in shown.items())})"


class SettingsKeywords(TypedDict, total=False):
    """The keyword arguments of ``configure``; None resets a setting to the environment."""

    spoolers: Sequence[str | os.PathLike[str] | Backend] | str | os.PathLike[str] | Backend | None
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
_SECRETS = ("secret_key", "secret_key_file")  # an empty one is an error, and not the same as unset
_MAX_TASK_SIZE = 1_000_000  # megabytes
_MAX_KEY_FILE = 1 << 16  # characters
_configured: Mapping[str, Any] = {}  # replaced by each change, which makes earlier readings outdated
_read: tuple[Mapping[str, Any], Settings] = {}, Settings()  # with the configuration at the time of reading
_start: str | None = None  # the working directory at import, because programs and uWSGI's spoolers change it later
with contextlib.suppress(OSError):  # the directory was removed
    _start = os.getcwd()


def configure(**values: Unpack[SettingsKeywords]) -> None:
    """Set settings for this process, which override the environment and ``pyproject.toml``. Calls are cumulative.

    :param values: the fields of :class:`Settings`; None resets one to the environment. Relative directories are
        resolved now. ``period`` and ``history_age`` also accept a timedelta, or a duration such as ``5m``.
    :raises ConfigurationError: if a setting is unknown or has an invalid value. Nothing is changed.
    """
    global _configured  # noqa: PLW0603  the process's settings are one thing
    last = sorted(values.items(), key=lambda item: item[0] == "spoolers")  # an error in the others adds no instance
    given = {name: _parse(name, value, os.getcwd(), "configure()") for name, value in last if value is not None}
    _configured = {name: value for name, value in _configured.items() if name not in values} | given


@contextlib.contextmanager
def override(**values: Unpack[SettingsKeywords]) -> Iterator[None]:
    """Set settings as ``configure`` does, and restore the former ones at the end.

    :raises ConfigurationError: as for ``configure``.
    """
    global _configured  # noqa: PLW0603  the process's settings are one thing
    former = _configured
    configure(**values)
    try:
        yield
    finally:
        _configured = dict(former)  # a copy, so that the environment is read again, too


def current() -> Settings:
    """Return the settings in force. The same object is returned until a setting is changed.

    :raises ConfigurationError: if a setting from the environment or a file is invalid.
    """
    global _read  # noqa: PLW0603  read once
    configured, found = _read
    if configured is not _configured:
        configured = _configured  # before reading: a change meanwhile makes the result outdated
        found = _from_layers()
        _read = configured, found
    return found


def _from_layers() -> Settings:
    found: dict[str, Any] = {}
    for layer, _ in _layers():
        if not layer.keys().isdisjoint(_SECRETS):  # a key replaces the file of an earlier layer, and the reverse
            found = {name: value for name, value in found.items() if name not in _SECRETS}
        found |= layer
    if "secret_key_file" in found:
        found["secret_key"] = _keys_of(found)
    if not found.get("spoolers"):
        found["spoolers"] = _from_uwsgi()
    return Settings(**found)


def origins() -> dict[str, str]:
    """Return the source of each setting, for display.

    :raises ConfigurationError: if a ``pyproject.toml`` cannot be read.
    """
    found = dict.fromkeys(_NAMES, "default")
    for layer, origin in _layers():
        if not layer.keys().isdisjoint(_SECRETS):
            found |= dict.fromkeys(_SECRETS, "default")
        found |= {name: origin or _variable(name) for name in layer}
    if file := current().secret_key_file:
        found["secret_key"] = file
    if found["spoolers"] == "default" and spooler_names():
        found["spoolers"] = "uWSGI's options"
    return found


def spooler_names() -> tuple[str, ...]:
    """Return the names of the configured spoolers."""
    return current().spoolers


def check_sizes(contents: Sequence[Content]) -> None:
    """Check that no payload is larger than ``max_task_size``.

    :raises PayloadRefused: if one is.
    """
    limit = current().max_task_size * MEGABYTE
    for content in contents:
        if (size := len(content.body)) > limit:
            raise PayloadRefused(
                f"the payload takes {size} bytes, and max_task_size allows {limit / MEGABYTE:g} MB; pass "
                "the path of a file instead, or raise UNSPOOL_MAX_TASK_SIZE for senders and workers"
            )


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


def misspelt() -> str:
    """Return a hint about variables that look like misspelt settings, for the error about a missing setting."""
    found = [
        f"{name} is set; did you mean {meant}?"
        for name in sorted(os.environ)
        if name.startswith("UNSPOOL_") and name not in variables() and (meant := similar_variable(name))
    ]
    return f" ({' '.join(found)})" if found else ""


def _variable(name: str) -> str:
    return f"UNSPOOL_{name.upper()}"


def _is_set(name: str) -> bool:
    """Return whether the environment has the setting. An empty variable usually means that it is not set."""
    value = os.environ.get(_variable(name))
    return value is not None and (value != "" or name in _SECRETS)


def _layers() -> Iterator[tuple[Mapping[str, Any], str]]:
    """Yield the settings of each source and its name, the most important last. The environment has an empty name.

    :raises ConfigurationError: as for ``current``.
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
                raise ConfigurationError(f"{path} cannot be read: tool.unspool is {table!r}, which is not a table")
            return table, place
        above = os.path.dirname(place)
        if above == place:
            return {}, place
        place = above


def _from_uwsgi() -> tuple[str, ...]:
    if "uwsgi" not in sys.modules:
        return ()
    with late:
        from .backends.spool.uwsgi.server import spoolers

    return tuple(spoolers())


def _parse(name: str, value: Any, base: str, source: str) -> Any:
    try:
        match name:
            case "spoolers":
                return _spoolers(value, base)
            case "durability":
                if value not in ("full", "relaxed"):
                    raise OptionRefused(f"durability is {value!r}; it must be 'full' or 'relaxed'")
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
    raise ConfigurationError(f"unknown setting {name!r} in {source}; valid settings: {', '.join(_NAMES)}")


def _spoolers(value: Any, base: str) -> tuple[str, ...]:
    if isinstance(value, str):
        parts: list[Any] = list(address.split(value))
    else:
        parts = list(value) if isinstance(value, Iterable) else [value]
    parts = [os.fspath(part).strip() if isinstance(part, str | os.PathLike) else part for part in parts]
    names = tuple(_spooler(part, base) for part in parts if part != "")
    backends = [part for part in parts if not isinstance(part, str)]
    for backend in backends:
        if any(other is not backend and other.name == backend.name for other in backends):
            raise OptionRefused(f"two backends are named {backend.name}; give one of them another name")
    for backend in backends:
        instances.add(backend)
    return names


def _spooler(part: Any, base: str) -> str:
    if not isinstance(part, str):
        if not hasattr(part, "exchange"):
            raise OptionRefused(f"a spooler is {part!r:.200}; it must be a path, a URL or a backend")
        return instances.check(part, "a spooler").name
    if part in instances.known:
        return part
    return (
        address.name_of(part) if address.is_url(part) else os.path.normpath(os.path.join(base, address.directory(part)))
    )


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
    """Return pairs of name and URL from ``URL``, ``NAME=URL, ...``, or a table of names and URLs."""
    if isinstance(value, str):
        given = [re.fullmatch(_NAMED, part, re.DOTALL) for part in address.split(value)]
        pairs = [(part[1] or "", part[2]) for part in given if part]
    elif isinstance(value, Mapping):
        pairs = [(str(name), url) for name, url in value.items()]
    else:
        raise OptionRefused(
            f"it is a {type(value).__name__}; it must be a URL, or for several spoolers NAME=URL, NAME=URL"
        )
    for name, url in pairs:
        if not isinstance(url, str) or not address.is_url(url):
            raise OptionRefused(f"tasks{name and f' of {name!r}'} are forwarded to a URL, such as postgresql://db/app")
        if address.parse_for(url, "any").scheme == "memory":
            raise OptionRefused("tasks cannot be forwarded to memory, where they are lost when the process ends")
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
