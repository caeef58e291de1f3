"""The options of a task, as passed to its decorator."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any, NamedTuple, Self, TypedDict, Unpack

from .codec import SERIALIZERS
from .errors import OptionRefused
from .retry import RetryPolicy
from .schedule import Postpone, check_priority, to_due
from .unique import UniqueFor, UniqueKey, UniqueMode, UniqueOptions

__all__ = ["TaskKeywords", "TaskOptions", "with_unique"]


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
    unique: UniqueMode | None
    unique_key: UniqueKey | None
    unique_for: UniqueFor | None


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
    unique: UniqueOptions | None


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
    :param unique: when the task counts as a duplicate; None if it never does.
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
        unique: UniqueOptions | None = None,
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
        types = _exceptions(no_retry_for)
        return super().__new__(cls, priority, postpone, retry, timeout, serializer, release_skipped, types, unique)

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
        return cls(retry=RetryPolicy(**retry), **with_unique(options))


def with_unique(options: dict[str, Any], former: UniqueOptions | None = None) -> dict[str, Any]:
    """Return the options with one value for ``unique``, ``unique_key`` and ``unique_for``.

    :param former: the values of the options that are not given.
    :raises OptionRefused: for an invalid value.
    """
    names = ("unique", "unique_key", "unique_for")
    if options.keys().isdisjoint(names):
        return options
    known = dict(zip(names, former or (None, None, None), strict=True))
    if "unique" in options and options["unique"] is None:
        known = dict.fromkeys(names)
    given = known | {name: options[name] for name in names if name in options}
    rest = {name: value for name, value in options.items() if name not in names}
    return rest | {"unique": UniqueOptions.of(*given.values())}


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
