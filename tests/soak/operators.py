"""Operations that people run with the command line, each of which must finish without a traceback."""

import json
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from . import oracle
from .payload import key_of

__all__ = ["Operators", "Route"]

Route = tuple[str, str]
"""Two spoolers between which tasks are moved."""

_PATIENCE = 90.0  # seconds after which a command counts as hung
_OLD = "30s"  # tasks that were due before that are purged
_FINE = (0, 1, 3)  # not 2, which would be bad usage


class Operators:
    """Run operations one after the other in a separate thread.

    :param spoolers: the spoolers that they operate.
    :param routes: the spoolers between which they move tasks; routes may be added later.
    :param quiet: held while an operation runs.
    """

    def __init__(
        self, scratch: Path, log: str, environment: Mapping[str, str], spoolers: Sequence[str],
        routes: Sequence[Route], seed: str, quiet: "threading.RLock",
    ) -> None:  # fmt: skip
        self._scratch = scratch
        self._log = log
        self._environment = dict(environment)
        self._spoolers = spoolers
        self._routes = routes
        self._seed = seed
        self._quiet = quiet
        self._ended = threading.Event()
        self.done: dict[str, int] = {}
        self.broken: BaseException | None = None

    def work(self) -> None:
        """Run operations until ``end``. Their number and the seed determine them."""
        number = 0
        try:
            while not self._ended.wait(random.Random(f"{self._seed} idle {number}").uniform(0.5, 3)):
                self.act(number)
                number += 1
        except BaseException as error:
            self.broken = error
            raise

    def end(self) -> None:
        """Prevent further operations."""
        self._ended.set()

    def act(self, number: int) -> None:
        """Run the operation of this number."""
        source = random.Random(f"{self._seed} operation {number}")
        kinds: dict[Callable[[random.Random], None], float] = {
            self.look: 8, self.show: 2, self.pause: 2, self.retry: 3, self.retry_all_dead: 1, self.rm: 3,
            self.purge: 1, self.move: 3 if self._routes else 0,
        }  # fmt: skip
        (kind,) = source.choices(list(kinds), weights=list(kinds.values()))
        self.done[kind.__name__] = self.done.get(kind.__name__, 0) + 1
        with self._quiet:
            oracle.append(self._log, "operation", number, kind.__name__)
            kind(source)

    # --- operations

    def look(self, source: random.Random) -> None:
        words = source.choice([
            ["ls"], ["ls", "--json"], ["ls", "--state", "dead"], ["status"], ["status", "--workers"],
            ["status", "--json"], ["doctor"], ["history"], ["history", "--failed"], ["history", "--json"],
        ])  # fmt: skip
        self.run(*words)

    def show(self, source: random.Random) -> None:
        for entry in self._some(source, self.entries(*source.choice(["ready", "running", "dead"]).split()), 1):
            self.run("show", entry["id"])

    def pause(self, source: random.Random) -> None:
        self.run("pause")
        time.sleep(source.random() * 2)
        self.run("resume")

    def retry(self, source: random.Random) -> None:
        chosen = self._known(self._some(source, self.entries(source.choice(["dead", "deferred", "ready"])), 3))
        if chosen:
            self._retry(chosen, source, "retry", *chosen)

    def retry_all_dead(self, source: random.Random) -> None:
        self._retry({"": "*"}, source, "retry", "--all-dead")  # also tasks that die from now on

    def _retry(self, chosen: Mapping[str, str], source: random.Random, *words: str) -> None:
        lines = [("retry", key) for key in chosen.values()]
        oracle.append_all(self._log, lines)
        self.run(*words, kill=self._half_way(source))
        oracle.append_all(self._log, lines)

    def rm(self, source: random.Random) -> None:
        state = source.choice(["dead", "deferred", "ready", "running"])
        chosen = self._known(self._some(source, self.entries(state), 3))
        if chosen:
            self.remove(chosen, source, "rm", *chosen)

    def purge(self, source: random.Random) -> None:
        known = self._known(self.entries())  # a task that is sent and dies from now on is too young
        self.remove(known, source, "purge", "--state=dead", f"--older-than={_OLD}", "--yes")

    def remove(self, known: Mapping[str, str], source: random.Random, *words: str) -> None:
        """Remove tasks. All known tasks may be gone until the command has listed the ones that it removed, or until
        they are listed after it was killed.
        """
        oracle.append_all(self._log, [("remove", key) for key in known.values()])
        done = self.run(*words, kill=self._half_way(source))
        lines: list[tuple[str, str]]
        if done is not None:
            gone = {line for line in done.stdout.splitlines() if "/" in line}
            lines = [("kept", known[id]) for id in known.keys() - gone]
            lines += [("removed", id) for id in gone - known.keys()]
        else:
            lines = [("kept", key) for key in self._known(self.entries()).values()]
        oracle.append_all(self._log, lines)

    @staticmethod
    def _half_way(source: random.Random) -> float:
        """Return the seconds after which a command is killed; 0 for most commands, which are not killed."""
        after = source.random() * 0.6
        return after if source.random() < 0.2 else 0.0

    def move(self, source: random.Random) -> None:
        for here, there in dict.fromkeys(
            [source.choice(self._routes), self._routes[-1]]
        ):  # the last one leads from a new place
            self.run("move", here, there, kill=source.random() * 1.5 if source.random() < 0.6 else 0.0)

    # --- the command line

    def run(self, *words: str, kill: float = 0.0) -> "subprocess.CompletedProcess[str] | None":
        """Run a command and check its result. Return None if it hung, or was killed after ``kill`` seconds."""
        if words[0] != "move":
            return self._run(words, kill)
        oracle.append(self._log, "carry")
        try:
            return self._run(words, kill)
        finally:
            oracle.append(self._log, "carry")

    def _run(self, words: Sequence[str], kill: float) -> "subprocess.CompletedProcess[str] | None":
        every = [] if words[0] == "move" else [f"--spooler={name}" for name in self._spoolers]
        command = [sys.executable, "-m", "unspool", words[0], *every, *words[1:]]
        process = subprocess.Popen(
            command, cwd=self._scratch, env=self._environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True, errors="backslashreplace",
        )  # fmt: skip
        try:
            out, err = process.communicate(timeout=kill or _PATIENCE)
        except subprocess.TimeoutExpired:
            if not kill:
                oracle.append(self._log, "hung", "-".join(words[:2]))
            process.kill()
            process.communicate()
            return None
        if "Traceback" in err:
            oracle.append(self._log, "traceback", *words[:2])
            self._keep("tracebacks", words, err)
        elif process.returncode not in _FINE:
            oracle.append(self._log, "odd", process.returncode, *words[:2])
            self._keep("odd", words, err)
        return subprocess.CompletedProcess(command, process.returncode, out, err)

    def _keep(self, name: str, words: Iterable[str], err: str) -> None:
        with open(self._scratch / name, "a") as file:
            file.write(f"--- {oracle.now():.3f} {' '.join(words)[:300]}\n{err[-4000:]}\n")

    def entries(self, *states: str) -> list[dict[str, Any]]:
        """Return the tasks that ``unspool ls --json`` lists; none while a spooler cannot be used."""
        done = self.run("ls", "--json", *[f"--state={state}" for state in states])
        if done is None or done.returncode:
            return []
        entries: list[dict[str, Any]] = json.loads(done.stdout)
        return entries

    @staticmethod
    def _some(source: random.Random, entries: Sequence[dict[str, Any]], limit: int) -> list[dict[str, Any]]:
        return source.sample(entries, min(len(entries), source.randint(1, limit)))

    @staticmethod
    def _known(entries: Iterable[dict[str, Any]]) -> dict[str, str]:
        """Return the key of each task by its id, without tasks that are not the soak's."""
        keys = {entry["id"]: key_of(entry["id"]) for entry in entries}
        return {id: key for id, key in keys.items() if key}
