"""The wheel beside an installed uwsgiconf: neither changes the other's files. This needs a package index."""

import os
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
UWSGICONF = "uwsgiconf==2.4.0"
OURS = "from uwsgiconf.runtime.spooler import Spooler; print(Spooler.__module__)"


def pip(*words: str) -> None:
    """Run this environment's pip."""
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *words]
    subprocess.run(command, check=True, timeout=100)


class Environment:
    """A separate virtual environment without pip."""

    def __init__(self, place: Path) -> None:
        venv.create(place, with_pip=False)
        self.python = str(place / "bin" / "python")
        self.packages = next(place.glob("lib/python*/site-packages"))

    def install(self, *what: str) -> None:
        """Install distributions without their dependencies, which the import path does not need."""
        pip("--python", self.python, "install", "--no-deps", *what)

    def uninstall(self, what: str) -> None:
        """Remove a distribution."""
        pip("--python", self.python, "uninstall", "--yes", what)

    def says(self, code: str) -> str:
        """Return the output of a program."""
        ended = subprocess.run(
            [self.python, "-c", code],
            cwd="/",
            env={"PATH": os.environ["PATH"]},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        return ended.stdout.strip() or ended.stderr.strip().rpartition("\n")[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The wheel of unspool, built from this tree."""
    place = tmp_path_factory.mktemp("wheel")
    pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(place), str(ROOT))
    [built] = place.glob("unspool-*.whl")
    return str(built)


def test_the_wheel_owns_nothing_of_uwsgiconfs(wheel: str) -> None:
    """None of its files is in a folder ``uwsgiconf`` of site-packages."""
    with zipfile.ZipFile(wheel) as archive:
        tops = {name.partition("/")[0] for name in archive.namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == {
        "unspool",
        "unspool_command.py",
        "unspool_uwsgiconf",
        "unspool-uwsgiconf.pth",
    }


def test_alone_it_brings_the_seeds_import_path(wheel: str, tmp_path: Path) -> None:
    """Without uwsgiconf, its import path gives the objects of unspool."""
    environment = Environment(tmp_path)
    environment.install(wheel)
    assert environment.says(OURS) == "unspool.spooler"


@pytest.mark.parametrize("order", ["before", "after"])
def test_beside_uwsgiconf(wheel: str, tmp_path: Path, order: str) -> None:
    """In both orders of installation, uwsgiconf's files are unchanged, also after unspool is uninstalled. On request,
    the path is unspool's.
    """
    environment = Environment(tmp_path)
    for what in (UWSGICONF, wheel) if order == "before" else (wheel, UWSGICONF):
        environment.install(what)
    theirs = environment.packages / "uwsgiconf" / "runtime" / "spooler.py"
    code = theirs.read_bytes()
    assert b"unspool" not in code
    assert environment.says(f"import unspool; {OURS}") == "uwsgiconf.runtime.spooler"
    assert environment.says(f"import unspool.compat.uwsgiconf; {OURS}") == "unspool.spooler"
    assert "import unspool.compat.uwsgiconf first" in environment.says(
        "import uwsgiconf.runtime.spooler, unspool.compat.uwsgiconf"
    )
    environment.uninstall("unspool")
    assert theirs.read_bytes() == code
    assert environment.says(OURS) == "uwsgiconf.runtime.spooler"
    assert not [file for file in environment.packages.glob("unspool*/**/*") if file.is_file()]
