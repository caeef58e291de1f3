"""The uWSGI program: its path and its features."""

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass

from ..errors import ConfigurationError

__all__ = ["INSTALL", "Program", "find", "look_at"]

INSTALL = "pip install pyuwsgi"
_NAMES = ("pyuwsgi", "uwsgi")
_LIMIT = 20  # seconds
_option = re.compile(r"^\s+(?:-.\|)?--([a-z0-9-]+)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Program:
    """A uWSGI that can be started.

    :param path: the path of the program.
    :param version: its version.
    :param python: the version of its Python; empty if it has none.
    :param options: the names of all its options.
    """

    path: str
    version: str
    python: str
    options: frozenset[str]

    @property
    def objection(self) -> str:
        """Return why it cannot run the tasks of this Python's programs, or an empty string."""
        if "spooler" not in self.options:
            return f"uWSGI {self.version} at {self.path} was built without its spooler"
        if "spooler-import" not in self.options or not self.python:
            return f"uWSGI {self.version} at {self.path} was built without Python"
        ours = sys.version_info[:2]
        if self.python.split(".")[:2] != [str(part) for part in ours]:
            return f"uWSGI {self.version} at {self.path} has Python {self.python}; this is {ours[0]}.{ours[1]}"
        return ""


def find(named: str | None = None) -> str | None:
    """Return the program's path: beside this Python, as in a virtual environment, otherwise on ``PATH``.

    :param named: another name or path to search for.
    """
    if named is not None:
        return shutil.which(os.path.expanduser(named))
    beside = os.path.dirname(sys.executable)
    for place in (beside, None):
        for name in _NAMES:
            path = shutil.which(name, path=place)
            if path:
                return path
    return None


def look_at(path: str) -> Program:
    """Return the version and options of a program.

    :raises ConfigurationError: if it does not answer as uWSGI does.
    """
    version = _ask(path, "--version").strip()
    options = frozenset(_option.findall(_ask(path, "--help")))
    if not re.match(r"[0-9]+\.", version) or "master" not in options:
        raise ConfigurationError(f"{path} is not uWSGI; {INSTALL}")
    python = _ask(path, "--python-version").strip() if "python-version" in options else ""
    return Program(path, version, python, options)


def _ask(path: str, question: str) -> str:
    try:
        done = subprocess.run(  # noqa: S603  what was found as uWSGI, or named by the user
            [path, question], capture_output=True, timeout=_LIMIT, stdin=subprocess.DEVNULL, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ConfigurationError(f"{path} cannot be asked for its {question.strip('-')}: {error}") from error
    return done.stdout.decode(errors="replace")
