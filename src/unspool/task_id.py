"""What sending returns: a task's id."""

from collections.abc import Generator
from typing import Any

__all__ = ["TaskId"]


class TaskId(str):
    """A task's id: a ``str``, and a plain ``str`` wherever it is pickled or copied to.

    It cannot be awaited: a task is sent, and not run, by its call.
    """

    __slots__ = ()

    def __await__(self) -> Generator[Any, None, Any]:
        raise TypeError(
            f"a task's call returns its id, which cannot be awaited; the task {self} has been sent. Call the task "
            "without await, or await asyncio.to_thread(task, ...)"
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return str, (str(self),)
