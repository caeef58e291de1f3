"""uWSGI's configuration, built in Python and rendered as an ini file or as arguments.

::

    section = Section()
    section.spooler.set_basic_params(order_tasks=True, process_count=2, poll_interval=5)
    section.spooler.add("/var/spool/mail")
    print(section)

The names are those of uwsgiconf. uWSGI ignores an unknown option unless it is ``strict``, and reads an invalid number
as 0. Here, both are errors. uWSGI is not imported, and no file is read.
"""

import os
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias, TypedDict, Unpack

from .errors import ConfigurationError

__all__ = ["Params", "Section", "SpoolerOptions", "SpoolerParams"]

Path: TypeAlias = str | os.PathLike[str]
Paths: TypeAlias = Path | Sequence[Path]

_LARGEST = 2**31 - 1  # uWSGI keeps numbers in a C int
_broken = re.compile(r"[\x00-\x1f\x7f]")
_replaced = re.compile(r"[%$@]\(")


class SpoolerParams(TypedDict, total=False):
    """The parameters of ``Section.spooler.set_basic_params``. None leaves a parameter as it is, False removes it."""

    touch_reload: Paths | None
    """Absolute paths of files. When one is touched, the spooler processes are replaced."""
    quiet: bool | None
    """Write no log line for each task."""
    process_count: int | None
    """The number of processes for each directory."""
    max_tasks: int | None
    """Replace a process after this many tasks."""
    order_tasks: bool | None
    """Run tasks in the order of their names, those with a priority first."""
    harakiri: int | None
    """Kill a process whose task takes longer than this, in seconds."""
    change_dir: Path | None
    """The absolute path of the directory in which tasks run, instead of the spooler's own."""
    poll_interval: int | None
    """Seconds between scans for tasks. uWSGI's default is 30."""
    signal_as_task: bool | None
    """Count a uWSGI signal as a task. uWSGI 2.0 does not have this option."""
    cheap: bool | None
    """Start no process until there is a task. uWSGI 2.0 does not have this option."""
    base_dir: Path | None
    """The absolute path to which relative directories in later calls of ``add`` are relative."""


class Params(TypedDict, total=False):
    """The parameters of ``Section.set``: options of uWSGI that tasks need, in addition to those of the spooler."""

    strict: bool | None
    """Refuse options that this uWSGI does not know."""
    master: bool | None
    """Start a master process. uWSGI always does so if it has a spooler."""
    die_on_term: bool | None
    """Exit on SIGTERM, which otherwise makes uWSGI reload."""
    processes: int | None
    """The number of processes that serve requests; 0 for none."""
    pythonpath: Paths | None
    """Absolute paths of directories to import from, the last one first. uWSGI expands ``*``, ``?`` and ``[]``."""
    spooler_import: str | Sequence[str] | None
    """Modules that each spooler process imports when it starts."""


Check = Callable[[str, Any], list[str]]


class Section:
    """One ``[uwsgi]`` section.

    ``str(section)`` is :meth:`as_ini`.
    """

    def __init__(self) -> None:
        self._values: dict[str, list[str]] = {}
        self._directories: list[tuple[str, str]] = []
        self.spooler = SpoolerOptions(self, self._values, self._directories)

    def set(self, **params: Unpack[Params]) -> "Section":
        """Set options of the server, and return the section.

        :raises ConfigurationError: for an unknown parameter or an invalid value.
        """
        _apply(self._values, _SERVER, params)
        return self

    def options(self) -> list[tuple[str, str]]:
        """Return uWSGI's names and the values, in the order of rendering. A flag has the value ``true``."""
        return [(name, value) for name, values in self._values.items() for value in values] + self._directories

    def as_ini(self) -> str:
        """Return the text of an ini file."""
        lines = (f"{name} = {value.replace('%', '%%')}\n" for name, value in self.options())
        return "[uwsgi]\n" + "".join(lines)

    def as_arguments(self) -> list[str]:
        """Return arguments for the uWSGI program."""
        return [f"--{name}" if name in _FLAGS else f"--{name}={value}" for name, value in self.options()]

    def __str__(self) -> str:
        return self.as_ini()


class SpoolerOptions:
    """The options of spoolers: ``Section.spooler``."""

    def __init__(self, section: Section, values: dict[str, list[str]], directories: list[tuple[str, str]]) -> None:
        self._section = section
        self._values = values
        self._directories = directories
        self._base = ""

    def set_basic_params(self, **params: Unpack[SpoolerParams]) -> Section:
        """Set parameters of all spoolers, and return the section. Calls are cumulative.

        :raises ConfigurationError: for an unknown parameter or an invalid value. Nothing is changed.
        """
        _apply(self._values, _SPOOLER, params)
        base = params.get("base_dir")
        if base is not None:
            [self._base] = _paths("base_dir", base)
        return self._section

    def add(self, work_dir: Paths, *, external: bool = False) -> Section:
        """Add one or several spoolers, and return the section.

        :param work_dir: absolute paths, or relative ones if there is a ``base_dir``. uWSGI creates missing directories.
        :param external: True if another program, such as ``unspool run``, runs the tasks, and this uWSGI only sends.
        :raises ConfigurationError: for an invalid path, or one that was already added.
        """
        found = [os.path.join(self._base, _text("work_dir", path)) for path in _several(work_dir)]
        added: list[tuple[str, str]] = []
        for path in _paths("work_dir", found):
            if any(path == known for _, known in self._directories + added):
                raise ConfigurationError(f"spooler {path} was already added; for more processes, set process_count")
            added.append(("spooler-external" if external else "spooler", path))
        self._directories += added
        return self._section


def _apply(values: dict[str, list[str]], known: Mapping[str, tuple[str, Check]], params: Mapping[str, Any]) -> None:
    changes: dict[str, list[str]] = {}
    for name, value in params.items():
        if name not in known:
            raise ConfigurationError(f"unknown parameter {name!r}; valid parameters: {', '.join(known)}")
        if value is not None:
            option, check = known[name]
            changes[option] = check(name, value)
    changes.pop("", None)  # not an option of uWSGI
    values |= changes


def _flag(name: str, value: Any) -> list[str]:
    if not isinstance(value, bool):
        raise ConfigurationError(f"{name} is {value!r}; it must be True or False")
    return ["true"] if value else []


def _number(name: str, value: Any, least: int = 1) -> list[str]:
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= _LARGEST:
        raise ConfigurationError(f"{name} is {value!r}; it must be a whole number from {least} to {_LARGEST}")
    return [str(value)]


def _count(name: str, value: Any) -> list[str]:
    return _number(name, value, least=0)


def _path(name: str, value: Any) -> list[str]:
    text = _text(name, value)
    if not os.path.isabs(text):
        raise ConfigurationError(f"{name} is {text!r}; give an absolute path, as uWSGI may be started anywhere")
    return [os.path.normpath(text)]


def _paths(name: str, value: Any) -> list[str]:
    return [path for part in _several(value) for path in _path(name, part)]


def _modules(name: str, value: Any) -> list[str]:
    found = [_text(name, part) for part in _several(value)]
    for module in found:
        if "/" in module or module.endswith(".py") or not all(module.split(".")):
            # uWSGI would import these as files, under an invented module name that no other worker knows
            raise ConfigurationError(
                f"{name} is {module!r}; give the name of a module, and add its directory to pythonpath"
            )
    return found


def _several(value: Any) -> Sequence[Any]:
    return value if isinstance(value, (list, tuple)) else [value]


def _text(name: str, value: Any) -> str:
    """Return a value that uWSGI reads unchanged."""
    text = os.fspath(value) if isinstance(value, (str, os.PathLike)) else None
    if not isinstance(text, str) or not text:
        raise ConfigurationError(f"{name} is {value!r}; it must be a string or a path")
    if _broken.search(text) or text != text.strip():
        raise ConfigurationError(
            f"{name} is {text!r}; an ini file cannot have control characters, or spaces at the ends of a value"
        )
    if _replaced.search(text):
        raise ConfigurationError(f"{name} is {text!r}; uWSGI would replace text that begins with '%(', '$(' or '@('")
    return text


_SPOOLER: Mapping[str, tuple[str, Check]] = {
    "touch_reload": ("touch-spoolers-reload", _paths),
    "quiet": ("spooler-quiet", _flag),
    "process_count": ("spooler-processes", _number),
    "max_tasks": ("spooler-max-tasks", _number),
    "order_tasks": ("spooler-ordered", _flag),
    "harakiri": ("spooler-harakiri", _number),
    "change_dir": ("spooler-chdir", _path),
    "poll_interval": ("spooler-frequency", _number),
    "signal_as_task": ("spooler-signal-as-task", _flag),
    "cheap": ("spooler-cheap", _flag),
    "base_dir": ("", _path),
}
_SERVER: Mapping[str, tuple[str, Check]] = {
    "strict": ("strict", _flag),
    "master": ("master", _flag),
    "die_on_term": ("die-on-term", _flag),
    "processes": ("processes", _count),
    "pythonpath": ("pythonpath", _paths),
    "spooler_import": ("spooler-import", _modules),
}
_FLAGS = {option for option, check in [*_SPOOLER.values(), *_SERVER.values()] if check is _flag}
