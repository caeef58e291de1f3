"""Changes of a task by a user. A running task cannot be changed."""

from dataclasses import dataclass

from ..errors import TaskBusy
from ..schedule import check_priority

__all__ = ["Change", "Remove", "Reprioritise", "RunNow", "kept_out"]


@dataclass(frozen=True, slots=True)
class RunNow:
    """Makes a waiting task or a dead letter ready now, and resets its attempts.

    A dead letter whose key another task has by now cannot be made ready (``kept_out``).
    """


@dataclass(frozen=True, slots=True)
class Remove:
    """Deletes a task."""


@dataclass(frozen=True, slots=True)
class Reprioritise:
    """Gives a task another priority. Its due time, attempts and reason stay as they are.

    :param priority: 0 or more, smaller runs first; None runs after all numbers.
    :raises OptionRefused: if it is not a priority.
    """

    priority: int | None

    def __post_init__(self) -> None:
        check_priority(self.priority)


Change = RunNow | Remove | Reprioritise


def kept_out(id: str, holder: str) -> TaskBusy:
    """Return the error for a dead letter whose key another task has.

    :param holder: the id of the other task.
    """
    return TaskBusy(
        f"task {id} is kept out by {holder}, which has the same unique key; retry it when that task has ended"
    )
