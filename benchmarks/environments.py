"""A separate Python environment for each peer, which is created below ``.venvs`` and kept."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from .processes import Failed

__all__ = ["Environment", "environment"]

_ROOT = Path(__file__).resolve().parent.parent / ".venvs"
_NEWEST = 16


class Environment(NamedTuple):
    """The environment of a peer."""

    directory: Path
    version: str
    """The peer's, and its Python's."""

    def program(self, name: str) -> str:
        """Return the path of a program in it."""
        return str(self.directory / "bin" / name)


def environment(package: str, more: Sequence[str] = (), minimum: tuple[int, int] = (3, 11)) -> Environment:
    """Return the environment of a peer, with the newest version at the time of creation. ``make clean`` removes it.

    :param package: the peer. Other requirements are in ``more``.
    :param minimum: the minimum version of Python. It is this one if it is new enough, or else another installed one.
    :raises Failed: if the environment cannot be created.
    """
    directory = _ROOT / f"bench-{package.partition('[')[0]}"
    python = _python(minimum)
    wanted = json.dumps([python, package, *more])
    stamp = directory / "made-of"
    if not stamp.exists() or stamp.read_text(encoding="utf-8") != wanted:
        print(f"installing {package}", file=sys.stderr, flush=True)
        shutil.rmtree(directory, ignore_errors=True)
        _run(python, "-m", "venv", "--without-pip", str(directory))
        pip = [sys.executable, "-m", "pip", "--python", str(directory / "bin" / "python"), "install", "--quiet"]
        _run(*pip, "--disable-pip-version-check", package, *more)
        stamp.write_text(wanted, encoding="utf-8")
    code = "import sys, importlib.metadata as m; print(m.version(sys.argv[1]), 'on Python', sys.version.split()[0])"
    version = _run(str(directory / "bin" / "python"), "-c", code, package.partition("[")[0])
    return Environment(directory, version.strip())


def _python(minimum: tuple[int, int]) -> str:
    if sys.version_info >= minimum:
        return sys.executable
    for candidate in _candidates(minimum):
        code = f"import sys, venv; sys.exit(sys.version_info < {minimum})"
        if subprocess.run([candidate, "-c", code], capture_output=True, check=False).returncode == 0:
            return candidate
    raise Failed(f"there is no Python {minimum[0]}.{minimum[1]} or newer here")


def _candidates(minimum: tuple[int, int]) -> Iterator[str]:
    for minor in range(minimum[1], _NEWEST):
        if found := shutil.which(f"python3.{minor}"):
            yield found
    versions = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    yield from map(str, sorted(versions.glob("3.*/bin/python3")))


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Failed(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout
