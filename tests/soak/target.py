"""What a soak needs of the system under test: its parts, what goes wrong with it, and how it is put right."""

import os
import random
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

from .cast import Cast, Part
from .operators import Operators, Route

__all__ = ["Fault", "Target", "base_environment", "producer", "supervisor", "uwsgi"]

Fault = Callable[[random.Random], None]

_APART = 1_000_000  # numbers of tasks that one producer process may use
_UWSGI = Path(sys.executable).with_name("pyuwsgi")


class Target(Protocol):
    """One backend with its servers."""

    parts: dict[str, Part]
    environment: dict[str, str]
    """Of operators."""
    spoolers: list[str]
    """Those that must be empty at the end."""
    routes: list[Route]

    def faults(self, cast: Cast) -> Mapping[Fault, float]:
        """Returns what can go wrong with it, and how often, in parts."""

    def mend(self) -> None:
        """Ends whatever still goes wrong."""

    def bring_back(self, operators: Operators) -> None:
        """Has operators bring back what lies in other places."""

    def taken(self) -> set[str]:
        """Returns the keys of tasks that the soak itself has taken away."""

    def close(self) -> None:
        """Ends its servers and removes what they had."""


def producer(environment: Mapping[str, str], seed: str, pause: float) -> Part:
    """Returns a part that sends."""

    def command(starts: int) -> list[str]:
        return [sys.executable, "-m", "tests.soak.producer", str(starts * _APART), seed, str(pause)]

    return Part(command, environment, sends=True)


def supervisor(environment: Mapping[str, str]) -> Part:
    """Returns ``unspool run`` with two workers."""
    words = ["run", "tests.soak.app", "--processes", "2", "--max-tasks", "2000", "--log-level", "warning"]
    return Part(lambda _: [sys.executable, "-m", "unspool", *words], environment)


def uwsgi(environment: Mapping[str, str], log: Path, spooler: str) -> Part:
    """Returns a real uWSGI whose spooler runs the same tasks, with unspool inside."""
    command = [
        str(_UWSGI), "--master", "--die-on-term", "--spooler-quiet", "--disable-logging", f"--logto={log}",
        f"--spooler={spooler}", "--spooler-frequency=2", "--import=tests.soak.app",
    ]  # fmt: skip
    return Part(lambda _: command, environment)


def base_environment(scratch: Path, log: str) -> dict[str, str]:
    """Returns what all parts are told: where the log and the marks are."""
    return {"SOAK_LOG": log, "SOAK_MARKS": os.fspath(scratch / "marks")}
