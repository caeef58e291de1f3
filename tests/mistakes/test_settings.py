"""Mistakes with settings and spoolers."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ..cli.conftest import Shell
from .conftest import Quick

HOW = (
    "no spooler is configured; set UNSPOOL_SPOOLERS=/path/to/directory, or call unspool.configure(spoolers=[...]), or "
    "write spoolers = [...] under [tool.unspool] in pyproject.toml"
)


def without_spoolers(shell: Shell) -> Shell:
    """The shell without UNSPOOL_SPOOLERS."""
    del shell.env["UNSPOOL_SPOOLERS"]
    return shell


def test_no_spooler(shell: Shell) -> None:
    """All ways to configure a spooler are named, also those in Python, and a variable with a similar name."""
    without_spoolers(shell)
    assert shell.error("ls", status=2) == f"{HOW}; or give --spooler DIR or URL"
    text = shell.error("enqueue", "app:add", "1", status=2, UNSPOOL_SPOOLER="/tmp/mail")
    assert "UNSPOOL_SPOOLER is set; did you mean UNSPOOL_SPOOLERS?" in text
    command = [sys.executable, "-c", "import app; app.add(1)"]
    done = subprocess.run(command, cwd=shell.root, env=shell.env, capture_output=True, text=True, check=False)
    assert done.stderr.splitlines()[-1] == f"unspool.errors.NoSpooler: {HOW}"


def test_a_variable_that_is_none_of_unspools(shell: Shell) -> None:
    """``doctor`` names the variable and the probably correct one."""
    text = shell("doctor", status=1, UNSPOOL_DURABILTY="relaxed")
    assert (
        "warn UNSPOOL_DURABILTY: is not a variable that unspool knows\n     -> did you mean UNSPOOL_DURABILITY?" in text
    )


@pytest.mark.parametrize(
    ("variable", "value", "error"),
    [
        ("DURABILITY", "fast", "durability is 'fast'; it must be 'full' or 'relaxed'"),
        ("PERIOD", "soon", "'soon' is not a duration; write it like 90s, 5m, 1h30m or 2d"),
        ("PERIOD", "0s", "0.0 is not a number of seconds above 0 and up to 1000000000"),
        ("HISTORY_AGE", "1 week", "'1 week' is not a duration; write it like 90s, 5m, 1h30m or 2d"),
        ("HISTORY_LIMIT", "many", "'many' is not a whole number of 0 or more"),
        ("MAX_TASK_SIZE", "1GB", "'1GB' is not a number of megabytes above 0 and up to 1000000"),
    ],
)
def test_values(quick: Quick, variable: str, value: str, error: str) -> None:
    """The variable, the value and the valid values are named."""
    name = f"UNSPOOL_{variable}"
    assert quick.error("ls", status=2, **{name: value}) == f"{variable.lower()} from {name} cannot be used: {error}"


def test_durations(shell: Shell) -> None:
    """A setting in seconds accepts a unit, in the environment, in a file and in Python."""
    (shell.root / "pyproject.toml").write_text('[tool.unspool]\nhistory_age = "1d"\n')
    found = shell("doctor", status=1, UNSPOOL_PERIOD="5m", UNSPOOL_MISSPELT="")
    assert "ok   period: 300 s (from UNSPOOL_PERIOD)" in found
    assert f"ok   history_age: 86400 s (from {shell.root}/pyproject.toml)" in found
    code = "import datetime, unspool; unspool.configure(period=datetime.timedelta(minutes=2), history_age='1h30m')\n"
    code += "print(unspool.settings.current().period, unspool.settings.current().history_age)"
    done = subprocess.run([sys.executable, "-c", code], env=shell.env, capture_output=True, text=True, check=True)
    assert done.stdout == "120.0 5400.0\n"
    assert shell("set-period", "2m") == f"period of {shell.mail} is 120 s\n"


@pytest.mark.parametrize(
    ("text", "error"),
    [
        (
            "spolers = ['mail']",
            "unknown setting 'spolers' in [tool.unspool] in pyproject.toml; valid settings: spoolers, ",
        ),
        ("spoolers = [", "pyproject.toml cannot be read: "),
        ("secret_key = 'short'", "secret_key from [tool.unspool] in pyproject.toml cannot be used: "),
        ("secret_key_file = 'none'", "/none cannot be used: No such file or directory"),
    ],
)
def test_pyproject(quick: Quick, text: str, error: str) -> None:
    """The file and the setting are named."""
    (quick.shell.root / "pyproject.toml").write_text(f"[tool.unspool]\n{text}\n")
    assert error in quick.error("ls", status=2)


def test_places_that_cannot_be_used(quick: Quick) -> None:
    """A file, a directory that everyone can write to, a mistyped server and an unreachable server."""
    file = quick.shell.root / "file"
    file.touch()
    assert quick.error("ls", "--spooler", str(file), status=3) == (
        f"spooler {file} cannot be used: it is a file; name a directory"
    )
    quick.shell.mail.mkdir()
    quick.shell.mail.chmod(0o777)
    assert "chmod o-w" in quick.error("ls", status=3)
    assert "valid schemes: postgresql, postgres, nats" in quick.error(
        "ls", "--spooler", "redis://db?spooler=mail", status=2
    )
    assert "spooler=" in quick.error("ls", "--spooler", "postgresql://db/app", status=2)
    away = "postgresql://127.0.0.1:1/app?spooler=mail"
    assert 'connection to server at "127.0.0.1", port 1 failed' in quick.error("ls", "--spooler", away, status=3)


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
def test_a_directory_of_another_user(shell: Shell) -> None:
    """A worker that would run none of its tasks says so."""
    shell.mail.mkdir(mode=0o700)
    os.chown(shell.mail, 65534, 65534)
    assert str(shell.mail) in shell.error("run", "app", "--burst", status=3)


def test_a_relative_spooler(shell: Shell) -> None:
    """A worker and ``doctor`` warn that other programs may use another directory, and name the absolute path."""
    done = shell.result("run", "app", "--burst", UNSPOOL_SPOOLERS="mail")
    [warning] = [line for line in done.stderr.splitlines() if "WARNING" in line]
    assert warning.endswith(
        "UNSPOOL_SPOOLERS is relative, so programs that are started in other directories use other spoolers; "
        f"write UNSPOOL_SPOOLERS={shell.mail}"
    )
    assert f"-> write absolute paths: UNSPOOL_SPOOLERS={shell.mail}" in shell(
        "doctor", status=1, UNSPOOL_SPOOLERS="mail"
    )
    assert "is relative" not in shell.result("run", "app", "--burst").stderr
    assert "is relative" not in shell.result("run", "app", "--burst", "--spooler", "./mail").stderr


@pytest.mark.parametrize("command", [("run", "app", "--burst"), ("ls",), ("pause",), ("enqueue", "app:add", "1")])
def test_a_mistyped_spooler(quick: Quick, command: tuple[str, ...]) -> None:
    """The name is refused, and no directory of this name is created. A path contains a slash."""
    assert quick.error(*command, "--spooler", "mial", status=2) == (
        "no spooler is named 'mial' (configured: mail); for a directory, write its path with a slash: ./mial"
    )
    assert not Path(quick.shell.root, "mial").exists()
