"""The interface of a system under test to the soak: its processes, its faults, and how it is restored."""

import os
import random
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

from .cast import Cast, Part
from .operators import Operators, Route

__all__ = ["Fault", "Target", "base_environment", "producer", "server_parts", "supervisor", "uwsgi"]

Fault = Callable[[random.Random], None]

_APART = 1_000_000  # task numbers that one producer process may use
_UWSGI = Path(sys.executable).with_name("pyuwsgi")


class Target(Protocol):
    """One backend with its servers."""

    parts: dict[str, Part]
    environment: dict[str, str]
    """The spoolers that operators use."""
    spoolers: list[str]
    """The spoolers that must be empty at the end."""
    routes: list[Route]

    def faults(self, cast: Cast) -> Mapping[Fault, float]:
        """Return the possible faults, and their relative frequencies."""

    def end_faults(self) -> None:
        """End all faults that are still active."""

    def bring_back(self, operators: Operators) -> None:
        """Let operators bring back tasks that are in other places."""

    def taken(self) -> set[str]:
        """Return the keys of tasks that the soak itself has taken away."""

    def close(self) -> None:
        """End its servers, and remove their data."""


def producer(environment: Mapping[str, str], seed: str, pause: float) -> Part:
    """Return a process that sends."""

    def command(starts: int) -> list[str]:
        return [sys.executable, "-m", "tests.soak.producer", str(starts * _APART), seed, str(pause)]

    return Part(command, environment, sends=True)


def supervisor(environment: Mapping[str, str]) -> Part:
    """Return ``unspool run`` with two workers."""
    words = ["run", "tests.soak.app", "--processes", "2", "--max-tasks", "2000", "--log-level", "warning"]
    return Part(lambda _: [sys.executable, "-m", "unspool", *words], environment)


def server_parts(
    direct: Mapping[str, str], proxied: Mapping[str, str], inbox: Mapping[str, str], seed: str, pause: float
) -> dict[str, Part]:
    """Return the processes around a server: some reach it directly, some by a proxy, and some by a forwarded directory.

    :param inbox: the environment of the directory, with the setting that forwards it.
    """
    sending = {name: value for name, value in inbox.items() if name != "UNSPOOL_FORWARD"}
    return {
        "supervisor-1": supervisor(direct),
        "supervisor-2": supervisor(proxied),
        "forwarder": Part(lambda _: [sys.executable, "-m", "unspool", "forward", "--log-level", "warning"], inbox),
        "producer-1": producer(direct, seed, pause),
        "producer-2": producer(proxied, seed, pause),
        "producer-3": producer(sending, seed, pause * 2),
    }


def uwsgi(environment: Mapping[str, str], log: Path, spooler: str) -> Part:
    """Return a real uWSGI with unspool inside, whose spooler runs the same tasks."""
    command = [
        str(_UWSGI), "--master", "--die-on-term", "--spooler-quiet", "--disable-logging", f"--logto={log}",
        f"--spooler={spooler}", "--spooler-frequency=2", "--import=tests.soak.app",
    ]  # fmt: skip
    return Part(lambda _: command, environment)


def base_environment(scratch: Path, log: str) -> dict[str, str]:
    """Return the environment of all processes, with the paths of the log and the marks."""
    return {"SOAK_LOG": log, "SOAK_MARKS": os.fspath(scratch / "marks")}
