"""The command line as a whole: statuses, help, and no traceback for any mistake."""

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import unspool
from unspool import configure
from unspool.cli import main
from unspool.settings import Settings

from .conftest import Shell, all_commands


def test_version(shell: Shell) -> None:
    """--version prints name and version. ``python -m unspool`` is the same program."""
    assert shell("--version") == f"unspool {unspool.__version__}\n"
    done = subprocess.run(
        [sys.executable, "-m", "unspool", "ls", "--bad"], cwd=shell.root, env=shell.env, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("unspool: error: No such option")
    assert done.stderr.endswith("(see 'unspool ls --help')\n")


def test_help_names_every_variable(capsys: pytest.CaptureFixture[str]) -> None:
    """The help of each command names the variable of each option. None of them is the variable of a setting."""
    taken = {f"UNSPOOL_{name.upper()}" for name in Settings._fields}
    for name, command in all_commands().items():
        assert main([name, "--help"]) == 0
        text = "".join(capsys.readouterr().out.split())
        for option in (param for param in command.params if param.param_type_name == "option"):
            long = next(word for word in option.opts if word.startswith("--"))
            word = f"{name}{long}".replace("--", "_").replace("-", "_").upper()
            wanted = "UNSPOOL_HISTORY_ROWS" if word == "HISTORY_LIMIT" else f"UNSPOOL_{word}"
            assert wanted in text
            assert wanted not in taken


def test_without_words_there_is_help(shell: Shell) -> None:
    """No command is wrong usage, and the answer lists the commands."""
    done = shell.result()

    assert done.returncode == 2
    assert "Commands:" in done.stderr


def test_a_bad_value_from_the_environment_is_traced(shell: Shell) -> None:
    """The line names the variable that has set the value."""
    assert "UNSPOOL_RUN_PROCESSES is set" in shell.error("run", "app", status=2, UNSPOOL_RUN_PROCESSES="many")
    assert "UNSPOOL_PERIOD" in shell.error("ls", status=2, UNSPOOL_PERIOD="never")


def test_bad_settings_files(shell: Shell) -> None:
    """A pyproject.toml that cannot be read, or has an unknown setting, is status 2 for every command."""
    (shell.root / "pyproject.toml").write_text("[tool.unspool]\nspolers = ['mail']\n")
    assert "unknown setting 'spolers'" in shell.error("status", status=2)
    (shell.root / "pyproject.toml").write_text("[tool.unspool\n")
    assert "pyproject.toml cannot be read" in shell.error("enqueue", "app:add", status=2)


def test_an_interrupt_is_no_traceback(shell: Shell) -> None:
    """Ctrl-C at a question ends with 130, without output."""
    shell.send("app:add", "1")

    text = shell.on_terminal("purge", "--state", "ready", answer=("for good?", "\x03"), status=130)

    assert "Traceback" not in text
    assert len(shell.json("ls")) == 1


WORDS = [
    "ls", "show", "history", "retry", "rm", "purge", "pause", "resume", "status", "set-period", "enqueue", "doctor",
    "--state", "dead", "ready", "bogus", "--limit", "0", "-1", "3", "--json", "--failed", "--all-dead", "--older-than",
    "1d", "1h30m", "--yes", "--spooler", "mail", "./file", "/dev/null", "", "--", "-", "-5", "--priority", "--in",
    "--at", "2030-01-01", "--args", "[]", "[1,2]", "--kwargs", "{}", "--message", "text", "--payload", "null", "m:f",
    "x=1", "x=", "=", "{", "\x1b[31m", "a\nb", "é", "uwsgi_spoolfile_on_x", "/etc/passwd", "../..", "9" * 400, "nan",
    "--help", "--version", "-h",
]  # fmt: skip


@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(words=st.lists(st.sampled_from(WORDS), max_size=7))
def test_no_words_make_a_traceback(words: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Any words in any order end with one of the documented statuses, and with 1, 2 or 3 also with a line that says
    why.
    """
    (tmp_path / "file").write_text("")
    configure(spoolers=[str(tmp_path / "mail")])
    with contextlib.chdir(tmp_path):
        status = main(words)
    said = capfd.readouterr().err

    assert status in (0, 1, 2, 3)
    assert "Traceback" not in said
    doctor_reports = "doctor" in words
    assert status == 0 or "unspool: error: " in said or "Commands:" in said or doctor_reports
    assert os.path.exists("/etc/passwd")
