"""Changes of a task by a user. A running task cannot be changed."""

from dataclasses import dataclass

from ..schedule import check_priority

__all__ = ["Change", "Remove", "Reprioritise", "RunNow"]


@dataclass(frozen=True, slots=True)
class RunNow:
    """Makes a waiting task or a dead letter ready now, and resets its attempts."""


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
