"""The proof that nothing is left and nothing was lost: three accounts, kept apart, that must agree.

What was acknowledged is what the calls returned. What finished is what the tasks wrote, to a file that the spooler
knows nothing of. What is left and what was set aside is what the command line says.
"""

import json
import subprocess
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["Proof", "Result", "ask", "count_results", "prove", "read_results"]

Result = Mapping[str, Any]


@dataclass(frozen=True)
class Proof:
    """What was counted.

    :param missing: acknowledged tasks that neither finished nor were set aside.
    :param strange: what finished without having been acknowledged.
    :param repeated: how often a task finished that had finished before.
    :param left: how many tasks are in each state that should be empty.
    """

    acknowledged: int
    finished: int
    aside: int
    missing: frozenset[str]
    strange: frozenset[str]
    repeated: int
    left: Mapping[str, int]

    @property
    def holds(self) -> bool:
        """Whether nothing is left, and each task either finished once or was set aside."""
        return (
            self.acknowledged == self.finished + self.aside
            and not self.missing
            and not self.strange
            and not self.repeated
            and not any(self.left.values())
        )


def prove(sent: Mapping[str, str], results: Collection[Result], unspool: Path) -> Proof:
    """Counts.

    :param sent: what each task is about, by its id.
    :param results: what the tasks wrote, with what each is about as its ``key``.
    """
    finished = Counter(result["key"] for result in results)
    about = {Path(id).name: subject for id, subject in sent.items()}  # set aside, a task keeps its file's name
    dead = ask(unspool, "ls", "--state", "dead")
    aside = {about[Path(task["id"]).name] for task in dead}
    (status,) = ask(unspool, "status")["spoolers"]
    return Proof(
        acknowledged=len(sent),
        finished=len(finished),
        aside=len(aside),
        missing=frozenset(sent.values()) - finished.keys() - aside,
        strange=frozenset(finished) - frozenset(sent.values()),
        repeated=finished.total() - len(finished),
        left={state: status[state] for state in ("ready", "deferred", "running")},
    )


def read_results(path: Path) -> list[Result]:
    """The lines that the tasks wrote."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def count_results(path: Path) -> int:
    """How many lines there are; 0 if there is no file yet."""
    return path.read_bytes().count(b"\n") if path.exists() else 0


def ask(unspool: Path, *arguments: str) -> Any:
    """What the command line says, as JSON."""
    answer = subprocess.run([unspool, *arguments, "--json"], check=True, stdout=subprocess.PIPE)
    return json.loads(answer.stdout)
