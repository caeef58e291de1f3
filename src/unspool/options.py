"""The options of a task, as passed to its decorator."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any, NamedTuple, Self, TypedDict, Unpack

from .codec import SERIALIZERS
from .errors import OptionRefused
from .retry import RetryPolicy
from .schedule import Postpone, check_priority, to_due

__all__ = ["TaskKeywords", "TaskOptions"]


class TaskKeywords(TypedDict, total=False):
    """The keyword arguments of ``Spooler.task``."""

    priority: int | None
    postpone: Postpone
    max_attempts: int
    retry_delay: float | timedelta
    retry_backoff: float
    retry_jitter: float
    timeout: float | timedelta | None
    serializer: str
    release_skipped: bool
    no_retry_for: type[BaseException] | Sequence[type[BaseException]]


_LONGEST = 365 * 86400  # seconds of a time limit
_RETRY_KEYWORDS = ("delay", "backoff", "jitter")


class _Options(NamedTuple):
    priority: int | None
    postpone: Postpone
    retry: RetryPolicy
    timeout: float | None
    serializer: str
    release_skipped: bool
    no_retry_for: tuple[type[BaseException], ...]


class TaskOptions(_Options):
    """How a kind of task is sent and run.

    :param priority: a whole number of 0 or more; smaller runs first. None runs after all numbers.
    :param postpone: a timedelta from the call, or a datetime (a naive one is local time).
    :param retry: how often and how soon it runs again after a failure.
    :param timeout: seconds, or a timedelta, that a run may take; None for no limit.
    :param serializer: ``pickle`` or ``json``.
    :param release_skipped: True if a task that returns ``None`` runs again, so that another handler can take it. Delay
        and limit are those of a failed task.
    :param no_retry_for: a type of exceptions, or several: a task that raises one is dead, whatever attempts are left.
    :raises OptionRefused: for an invalid value.
    """

    __slots__ = ()

    def __new__(
        cls,
        priority: int | None = None,
        postpone: Postpone = None,
        retry: RetryPolicy = RetryPolicy(),  # noqa: B008  it is frozen
        timeout: float | timedelta | None = None,
        serializer: str = "pickle",
        release_skipped: bool = False,
        no_retry_for: type[BaseException] | Sequence[type[BaseException]] = (),
    ) -> Self:
        check_priority(priority)
        to_due(postpone, 0.0)
        timeout = _seconds(timeout)
        if serializer not in SERIALIZERS:
            raise OptionRefused(f"serializer is {serializer!r}; it must be one of {', '.join(SERIALIZERS)}")
        if timeout is not None and (
            isinstance(timeout, bool) or not isinstance(timeout, int | float) or not 0 < timeout <= _LONGEST
        ):
            raise OptionRefused(
                f"timeout is {timeout!r}; it must be a timedelta or a number of seconds, above 0 and at most "
                f"{_LONGEST}, or None"
            )
        return super().__new__(
            cls, priority, postpone, retry, timeout, serializer, release_skipped, _exceptions(no_retry_for)
        )

    @classmethod
    def of(cls, **keywords: Unpack[TaskKeywords]) -> "TaskOptions":
        """Return the options for the keyword arguments of a decorator.

        :raises OptionRefused: for an unknown option or an invalid value.
        """
        unknown = keywords.keys() - TaskKeywords.__annotations__.keys()
        if unknown:
            known = ", ".join(TaskKeywords.__annotations__)
            raise OptionRefused(f"task() has no option {', '.join(sorted(unknown))}; valid options: {known}")
        options: dict[str, Any] = dict(keywords)
        retry = {name: _seconds(options.pop(f"retry_{name}")) for name in _RETRY_KEYWORDS if f"retry_{name}" in options}
        if "max_attempts" in options:
            retry["max_attempts"] = options.pop("max_attempts")
        return cls(retry=RetryPolicy(**retry), **options)


def _exceptions(given: Any) -> tuple[type[BaseException], ...]:
    """Return types of exceptions as a tuple.

    :raises OptionRefused: if one of them is anything else.
    """
    types = tuple(given) if isinstance(given, list | tuple | set | frozenset) else (given,)
    for one in types:
        if not isinstance(one, type) or not issubclass(one, BaseException):
            raise OptionRefused(
                f"no_retry_for is {given!r}; it must be a type of exceptions, such as ValueError, or a tuple of them"
            )
    return types


def _seconds(value: Any) -> Any:
    """Return the seconds of a timedelta; return anything else unchanged."""
    return value.total_seconds() if isinstance(value, timedelta) else value
