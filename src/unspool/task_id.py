"""The id of a task, which sending returns."""

import re
from collections.abc import Generator
from typing import Any

__all__ = ["FILE", "TaskId", "short_id"]

FILE = r"uwsgi_spoolfile_on_(?:.*_)?(?P<own>[0-9]+_[0-9]+_(?P<random>[0-9]+))_[0-9]+_[0-9]+"
"""The name of a task's file, as unspool and uWSGI make it. No two tasks have the same ``own`` part."""

_NUMBERED = r"[0-9a-f]{14}-(?P<own>[0-9a-f]{16})"  # a time and a random number, for queues that name tasks by both


def short_id(id: str) -> str:
    """Return the part of a task's id that identifies it, for people and URLs.

    If unspool or uWSGI made the id, it has fewer than 64 letters, digits, ``-`` and ``_``. ``TaskQuery.id`` or
    ``TaskQuery.piece`` accepts it.
    """
    name = id.rpartition("/")[2]
    made = re.fullmatch(FILE, name, re.ASCII | re.DOTALL) or re.fullmatch(_NUMBERED, name)
    return made["own"] if made else name.removeprefix("uwsgi_spoolfile_on_")


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
