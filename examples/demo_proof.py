"""The proof that no task is left and none was lost: three independent accounts that must agree.

A task is acknowledged if its call has returned an id. It has finished if it has written a line to a file that the
spooler does not know. The command line says which tasks are left, and which are set aside.
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
    """The counts of the tasks.

    :param missing: acknowledged tasks that neither finished nor were set aside.
    :param strange: tasks that finished although they were not acknowledged.
    :param repeated: the number of times that a task finished again.
    :param left: the number of tasks in each state that should be empty.
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
        """Whether no task is left, and each task has either finished once or was set aside."""
        return (
            self.acknowledged == self.finished + self.aside
            and not self.missing
            and not self.strange
            and not self.repeated
            and not any(self.left.values())
        )


def prove(sent: Mapping[str, str], results: Collection[Result], unspool: Path) -> Proof:
    """Count the tasks.

    :param sent: the subject of each task, by its id.
    :param results: the lines that the tasks wrote, with the subject as ``key``.
    """
    finished = Counter(result["key"] for result in results)
    about = {
        Path(id).name: subject for id, subject in sent.items()
    }  # a task that is set aside keeps the name of its file
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
    """Return the lines that the tasks wrote."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def count_results(path: Path) -> int:
    """Return the number of lines; 0 if there is no file yet."""
    return path.read_bytes().count(b"\n") if path.exists() else 0


def ask(unspool: Path, *arguments: str) -> Any:
    """Return the JSON that a command prints."""
    answer = subprocess.run([unspool, *arguments, "--json"], check=True, stdout=subprocess.PIPE)
    return json.loads(answer.stdout)
