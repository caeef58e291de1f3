"""A task's verdict on itself: what ``process()`` and task functions may return."""

from typing import Any

__all__ = ["ResultProcessed", "ResultRescheduled", "ResultSkipped", "TaskResult", "is_awaitable"]


class TaskResult:
    """Represents a task processing result.

    :param result: anything worth keeping of what the task found.
    :param exception: why, where the verdict stems from an error.
    :raises TypeError: if that is no exception.
    """

    code_uwsgi: int | None = None
    """The values returned to uWSGI (``core/spooler.c``: -2 done, -1 again, 0 not mine).

    A skipped task returns *done*, because uWSGI would offer it again at every scan, forever, after *not mine*.
    """

    def __init__(self, result: Any = None, *, exception: BaseException | None = None) -> None:
        if exception is not None and not isinstance(exception, BaseException):
            raise TypeError(f"{type(self).__name__} was given exception={exception!r}, which is no exception")
        self.result = result
        self.exception = exception

    def __repr__(self) -> str:
        return f"{type(self).__name__}(result={self.result!r}, exception={self.exception!r})"


class ResultProcessed(TaskResult):
    """Treat task as processed."""

    code_uwsgi = -2


class ResultSkipped(TaskResult):
    """Treat task as skipped (ignored)."""

    code_uwsgi = -2


class ResultRescheduled(TaskResult):
    """Treat task as rescheduled (being due to retry)."""

    code_uwsgi = -1


def is_awaitable(value: object) -> bool:
    """Return whether ``await`` accepts a value.

    Like ``await``, this checks the type, because an object's own ``__getattr__`` may provide any attribute, or raise.
    """
    return hasattr(type(value), "__await__")
