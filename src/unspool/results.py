"""The results that ``process()`` and task functions may return."""

from typing import Any

__all__ = ["ResultDead", "ResultProcessed", "ResultRescheduled", "ResultSkipped", "TaskResult", "is_awaitable"]


class TaskResult:
    """The result of a task.

    :param result: any value.
    :param exception: the error behind the result, whose traceback is recorded in history.
    :raises TypeError: if ``exception`` is not an exception.
    """

    code_uwsgi: int | None = None
    """The value for uWSGI (``core/spooler.c``: -2 done, -1 again, 0 not mine).

    A skipped task returns *done*, because uWSGI would offer it again at every scan, forever, after *not mine*.
    """

    def __init__(self, result: Any = None, *, exception: BaseException | None = None) -> None:
        if exception is not None and not isinstance(exception, BaseException):
            raise TypeError(f"{type(self).__name__} was given exception={exception!r}, which is not an exception")
        self.result = result
        self.exception = exception

    def __repr__(self) -> str:
        return f"{type(self).__name__}(result={self.result!r}, exception={self.exception!r})"


class ResultProcessed(TaskResult):
    """The task is done, and leaves the queue."""

    code_uwsgi = -2


class ResultSkipped(TaskResult):
    """The task is ignored, and leaves the queue."""

    code_uwsgi = -2


class ResultRescheduled(TaskResult):
    """The task runs again after its retry delay."""

    code_uwsgi = -1


class ResultDead(TaskResult):
    """The task is dead: it is set aside and does not run again, whatever attempts are left.

    :param result: the reason, as a text.
    """

    code_uwsgi = -2


def is_awaitable(value: object) -> bool:
    """Return whether ``await`` accepts a value.

    Like ``await``, this checks the type, because an object's own ``__getattr__`` may provide any attribute, or raise.
    """
    return hasattr(type(value), "__await__")
