"""Fixtures that run the examples as readers do: as programs, with the command line of this Python."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
UNSPOOL = str(Path(sys.executable).with_name("unspool"))
PATIENCE = 250.0  # seconds after which a program that should have ended has not

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    """The environment of a reader: no setting except the spooler, and a separate temporary directory."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("UNSPOOL_")}
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    return clean | {"UNSPOOL_SPOOLERS": str(tmp_path / "myspooler"), "TMPDIR": str(temporary)}


@pytest.fixture
def run(tmp_path: Path, env: dict[str, str]) -> Run:
    """Run a command to its end, with its output in a pipe."""

    def run(*command: object) -> "subprocess.CompletedProcess[str]":
        words = [str(word) for word in command]
        return subprocess.run(
            words, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=PATIENCE, check=False
        )

    return run
