"""The task that runs now, for the task itself and for code that it calls, such as a log filter."""

from contextvars import ContextVar
from typing import NamedTuple

from .errors import NotInTask
from .message import Claim
from .task_id import TaskId

__all__ = ["CurrentTask", "current", "running"]

running: ContextVar[tuple[Claim, str] | None] = ContextVar("unspool task", default=None)
"""The claim and the label of the task that runs in this context. The code that runs a task sets and resets it."""


class CurrentTask(NamedTuple):
    """What ``current`` returns.

    :param id: the id of the task, as its sender has got it; on a directory, that of its file now.
    :param name: the function, ``module:qualname``, or the type or text of a message.
    :param attempt: the number of this run; 1 for the first.
    :param due: when the task was due (unix seconds). A task without a delay was due when it was sent, and a task that
        has failed at the end of its retry delay.
    """

    id: TaskId
    name: str
    attempt: int
    due: float | None


def current() -> CurrentTask:
    """Return the task that runs now.

    Coroutines, callbacks and threads of ``asyncio.to_thread`` belong to the task that has started them. A thread that
    the task starts itself belongs to no task, unless it runs in a copy of the context (``contextvars.copy_context``).

    :raises NotInTask: if no task of a worker runs here.
    """
    found = running.get()
    if found is None:
        raise NotInTask("no task runs here; unspool.current() works in a task that a worker runs")
    claim, label = found
    return CurrentTask(TaskId(claim.id), label, claim.attempts, claim.envelope.due)
