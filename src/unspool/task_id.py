"""The id of a task, which sending returns."""

from collections.abc import Generator
from typing import Any

__all__ = ["TaskId"]


class TaskId(str):
    """The id of a task: a ``str``, which is pickled and copied as a plain ``str``.

    It cannot be awaited, because a call sends the task and does not run it.
    """

    __slots__ = ()

    def __await__(self) -> Generator[Any, None, Any]:
        raise TypeError(
            f"a task's call returns its id, which cannot be awaited; the task {self} has been sent. Call the task "
            "without await, or await asyncio.to_thread(task, ...)"
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return str, (str(self),)
