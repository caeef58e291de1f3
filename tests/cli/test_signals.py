"""Signals that arrive while a command is starting, sent when it imports a given module."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import PATIENCE, SCRIPT, Shell

SIGNALLED = """
import importlib.abc, os, sys

class Signalled(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == os.environ["SIGNALLED_AT"]:
            sys.meta_path.remove(self)
            os.kill(os.getpid(), int(os.environ["SIGNALLED_BY"]))

sys.meta_path.insert(0, Signalled())
"""


def signalled(shell: Shell, number: int, module: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a command that gets a signal when it begins to import this module."""
    (shell.root / "sitecustomize.py").write_text(SIGNALLED)
    env = shell.env | {"PYTHONPATH": str(shell.root), "SIGNALLED_AT": module, "SIGNALLED_BY": str(int(number))}
    return subprocess.run(
        [SCRIPT, *words], cwd=shell.root, env=env, capture_output=True, text=True, timeout=PATIENCE, check=False
    )


@pytest.mark.parametrize("module", ["unspool", "click", "unspool.cli.output"])
@pytest.mark.parametrize("words", [["ls"], ["run", "app"], ["enqueue", "app:add", "1"]])
def test_ctrl_c_during_the_start(shell: Shell, module: str, words: list[str]) -> None:
    """While the command starts, Ctrl-C ends it with status 130, without output."""
    done = signalled(shell, signal.SIGINT, module, *words)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_ctrl_c_before_the_supervisor_takes_it(shell: Shell) -> None:
    """The status is also 130 just before the supervisor handles the signal."""
    done = signalled(shell, signal.SIGINT, "unspool.runtime.recorder", "run", "app")
    assert (done.returncode, done.stderr) == (130, "")


def test_ctrl_c_once_a_command_has_begun(shell: Shell) -> None:
    """The command cleans up, and ends with the same status."""
    done = signalled(shell, signal.SIGINT, "unspool.backends.spool", "enqueue", "app:add", "1")
    assert (done.returncode, done.stdout, done.stderr.strip()) == (130, "", "")


@pytest.mark.parametrize("module", ["unspool", "click", "unspool.runtime.recorder"])
def test_hup_and_term_before_the_supervisor_takes_them(shell: Shell, module: str) -> None:
    """HUP asks for new workers, which the first ones are. TERM stops the command with status 0."""
    shell.send("app:add", "1")
    done = signalled(shell, signal.SIGTERM, module, "run", "app", "--burst")
    assert (done.returncode, done.stderr) == (0, "")
    done = signalled(shell, signal.SIGHUP, module, "run", "app", "--burst")
    assert done.returncode == 0
    assert "stopped: 1 task run" in done.stderr


def test_as_a_module(tmp_path: Path) -> None:
    """``python -m unspool`` is the same command."""
    command = [sys.executable, "-m", "unspool", "ls", "--spooler", str(tmp_path)]
    env = {name: value for name, value in os.environ.items() if not name.startswith("UNSPOOL_")}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert (done.returncode, done.stdout) == (0, "")
