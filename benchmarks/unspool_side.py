"""unspool as users run it, but without log lines for tasks, like uWSGI."""

import sys
from collections.abc import Mapping
from pathlib import Path

from .filesystem import Place
from .system import System

__all__ = ["Unspool"]

_APP = "benchmarks.app_unspool"


class Unspool(System):
    """unspool.

    :param durability: ``relaxed``, like uWSGI, or ``full``.
    """

    name = "unspool"

    def __init__(self, durability: str, settings: Mapping[str, str] | None = None) -> None:
        super().__init__({"UNSPOOL_DURABILITY": durability, **(settings or {})})

    def calling(self, place: Place) -> list[str]:
        return [sys.executable, "-m", _APP]

    def working(self, place: Place, workers: int) -> list[str]:
        command = [str(Path(sys.executable).with_name("unspool")), "run", _APP, "--processes", str(workers)]
        return [*command, "--log-level", "warning"]

    def calling_idle(self, place: Place) -> tuple[list[str], list[str]]:
        return self.calling(place), self.working(place, 1)

    def environment(self, place: Place) -> dict[str, str]:
        return {**self._settings, "UNSPOOL_SPOOLERS": str(place.spool)}
