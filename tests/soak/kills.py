"""Kills, reloads and freezes of processes, which every soak includes."""

import os
import random
import signal
import time
from collections.abc import Callable, Mapping

from .cast import Cast

__all__ = ["Kills"]


class Kills:
    """Applies them to the processes of a cast.

    :param lease: seconds of a freeze after which a server may give a process's tasks to others; None if it may not.
    """

    def __init__(self, cast: Cast, lease: float | None = None) -> None:
        self._cast = cast
        self._lease = lease

    def faults(self) -> Mapping[Callable[[random.Random], None], float]:
        """Return the faults, and their relative frequencies."""
        return {
            self.worker_killed: 12, self.producer_killed: 4, self.supervisor_killed: 2, self.all_of_it_killed: 1,
            self.reloaded: 3, self.terminated: 2, self.stopped_by_force: 1.5, self.frozen: 2,
            self.uwsgi_killed: 2 if self._cast.names("uwsgi") else 0,
            self.spooler_killed: 4 if self._cast.names("uwsgi") else 0,
            self.forwarder_killed: 3 if self._cast.names("forwarder") else 0,
        }  # fmt: skip

    def worker_killed(self, source: random.Random) -> None:
        for name in self._one("supervisor", source):
            if children := self._cast.children(name):  # a recorder or a child of a task also qualifies
                self._cast.kill_one(source.choice(children))

    def producer_killed(self, source: random.Random) -> None:
        for name in self._one("producer", source):
            self._cast.kill(name)

    def forwarder_killed(self, source: random.Random) -> None:
        for name in self._one("forwarder", source):
            self._cast.kill(name)

    def supervisor_killed(self, source: random.Random) -> None:
        for name in self._one("supervisor", source):
            self._cast.kill_leader(name)

    def all_of_it_killed(self, source: random.Random) -> None:
        for name in self._one("supervisor", source):
            self._cast.kill(name)

    def uwsgi_killed(self, source: random.Random) -> None:
        for name in self._one("uwsgi", source):
            self._cast.kill(name)

    def spooler_killed(self, source: random.Random) -> None:
        for name in self._one("uwsgi", source):
            if children := self._cast.children(name):
                self._cast.kill_one(source.choice(children))

    def reloaded(self, source: random.Random) -> None:
        for name in self._one("supervisor", source):
            for _ in range(source.choice([1, 1, 3])):
                self._cast.signal(name, signal.SIGHUP)
                time.sleep(source.random() * 0.5)

    def terminated(self, source: random.Random) -> None:
        for name in self._one("supervisor", source):
            self._cast.stop(name)

    def stopped_by_force(self, source: random.Random) -> None:
        for name in self._one("supervisor", source):
            self._cast.stop(name, force=True)

    def frozen(self, source: random.Random) -> None:
        """Stop a worker, or a supervisor with all its workers, for a while."""
        for name in self._one("supervisor", source):
            pids = self._cast.members(name)
            pids = pids if source.random() < 0.5 else [source.choice(pids)]
            seconds = source.uniform(0.5, 8)
            lapses = self._lease is not None and seconds > self._lease * 2 / 3  # renewed every third of a lease
            with self._cast.cut_off(pids if lapses else []):
                _signal(pids, signal.SIGSTOP)
                time.sleep(seconds)
                _signal(pids, signal.SIGCONT)

    def _one(self, kind: str, source: random.Random) -> list[str]:
        names = self._cast.names(kind)
        return [source.choice(names)] if names else []


def _signal(pids: list[int], number: int) -> None:
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue
