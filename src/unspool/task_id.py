"""The id of a task, which sending returns."""

import re
from collections.abc import Generator
from typing import Any

from .message import Duplicate

__all__ = ["FILE", "TaskId", "short_id", "task_id"]

FILE = r"uwsgi_spoolfile_on_(?:.*_)?(?P<own>[0-9]+_[0-9]+_(?P<random>[0-9]+))_[0-9]+_[0-9]+"
"""The name of a task's file, as unspool and uWSGI make it. No two tasks have the same ``own`` part."""

# A time and a random number, for queues that name tasks by both, and the key of a unique task.
_NUMBERED = r"[0-9a-f]{14}-(?P<own>[0-9a-f]{16})(?:_k[0-9a-f]{32})?"


def short_id(id: str) -> str:
    """Return the part of a task's id that identifies it, for people and URLs.

    If unspool or uWSGI made the id, it has fewer than 64 letters, digits, ``-`` and ``_``. ``TaskQuery.id`` or
    ``TaskQuery.piece`` accepts it.
    """
    name = id.rpartition("/")[2]
    made = re.fullmatch(FILE, name, re.ASCII | re.DOTALL) or re.fullmatch(_NUMBERED, name)
    if made:
        return made["own"]
    return re.sub("^uwsgi_spoolfile_on_(key-[0-9a-f]{32}[sd][0-9]*-)?|_k[0-9a-f]{32}$", "", name)


class TaskId(str):
    """The id of a task: a ``str``, which is pickled and copied as a plain ``str``.

    It cannot be awaited, because a call sends the task and does not run it.
    """

    __slots__ = ()

    @property
    def new(self) -> bool:
        """Whether the call has sent a task. False if another task has its unique key; the id is that task's then."""
        return True

    def __await__(self) -> Generator[Any, None, Any]:
        raise TypeError(
            f"a task's call returns its id, which cannot be awaited; the task {self} has been sent. Call the task "
            "without await, or await asyncio.to_thread(task, ...)"
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return str, (str(self),)


class _Duplicate(TaskId, Duplicate):
    __slots__ = ()

    @property
    def new(self) -> bool:
        return False


def task_id(id: str) -> TaskId:
    """Return the id that a caller gets for an id that a backend has returned."""
    return _Duplicate(id) if isinstance(id, Duplicate) else TaskId(id)
