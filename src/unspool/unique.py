"""The options of unique tasks, and the keys that follow from them.

A key is a digest of the task's name and of what its ``unique_key`` makes of the arguments. So tasks of different names
never have the same key, and a backend stores no argument.
"""

import json
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any, Literal, NamedTuple

from . import schedule
from .errors import OptionRefused, PayloadRefused
from .imports import late
from .message import Unique

__all__ = ["UniqueFor", "UniqueKey", "UniqueMode", "UniqueOptions", "check_key", "unique_call", "unique_message"]

UniqueMode = Literal["until_start", "until_done"]
UniqueKey = str | Callable[..., str]
UniqueFor = float | timedelta | str

_MODES = ("until_start", "until_done")
_LONGEST = 10 * 365 * 86400.0
_PLAIN = ("datetime", "date", "time", "timedelta", "UUID", "Decimal", "bytes", "PosixPath")
"""Types that JSON does not have and whose ``repr`` is the same for equal values."""


class _Options(NamedTuple):
    mode: UniqueMode
    key: UniqueKey | None
    seconds: float | None


class UniqueOptions(_Options):
    """When a task counts as a duplicate.

    :param mode: ``until_start`` if the key is free once the task has started; ``until_done`` if it is free once the
        task has left the queue.
    :param key: a format string of the arguments, or a function of the arguments that returns a text. None for all
        arguments.
    :param seconds: the time after which the key is free in any case: seconds, a timedelta, or a text like ``1h``. None
        for no limit.
    :raises OptionRefused: for an invalid value.
    """

    __slots__ = ()

    @classmethod
    def of(cls, mode: Any, key: Any, seconds: Any) -> "UniqueOptions | None":
        """Return the options for the values of ``unique``, ``unique_key`` and ``unique_for``; None if the task is not
        unique.

        :raises OptionRefused: for an invalid value.
        """
        if mode is None:
            for name, value in (("unique_key", key), ("unique_for", seconds)):
                if value is not None:
                    raise OptionRefused(f"{name} is {value!r}, but unique is not set; set unique to one of {_SHOWN}")
            return None
        if mode not in _MODES:
            raise OptionRefused(f"unique is {mode!r}; it must be one of {_SHOWN}, or None")
        if key is not None and not callable(key) and (not isinstance(key, str) or not key):
            raise OptionRefused(
                f"unique_key is {key!r}; it must be a format string of the arguments such as 'tenant:{{tenant_id}}', "
                "a function of the arguments, or None"
            )
        return cls(mode, key, _seconds(seconds))

    def unique(self, name: str, value: str) -> Unique:
        """Return the key of a task that is sent now.

        :param name: the name of the task.
        :param value: what is unique.
        """
        with late:
            import hashlib
        digest = hashlib.blake2b(f"{name}\0{value}".encode(errors="surrogatepass"), digest_size=16).hexdigest()
        key = Unique(digest, self.mode == "until_start")
        return key if self.seconds is None else key._replace(until=schedule.clock() + self.seconds)


_SHOWN = " and ".join(map(repr, _MODES))


def check_key(options: UniqueOptions, name: str, func: Callable[..., Any]) -> None:
    """Check that a format string names parameters of a function.

    :param name: the name of the task.
    :raises OptionRefused: if it does not.
    """
    if not isinstance(options.key, str):
        return
    with late:
        import inspect
        from string import Formatter
    signature = inspect.signature(func, follow_wrapped=False)
    try:
        fields = [field for _, field, _, _ in Formatter().parse(options.key) if field is not None]
    except ValueError as error:
        raise OptionRefused(f"unique_key of {name} is {options.key!r}, which is no format string: {error}") from None
    for field in fields:
        parameter = field.partition(".")[0].partition("[")[0]
        if parameter not in signature.parameters:
            known = ", ".join(signature.parameters) or "none"
            raise OptionRefused(
                f"unique_key of {name} is {options.key!r}, and {parameter!r} is no parameter; the parameters are: "
                f"{known}"
            )


def unique_call(
    options: UniqueOptions, name: str, func: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> Unique:
    """Return the key of a call.

    :param name: the name of the task.
    :raises OptionRefused: if the key's function raises an error or returns no text, or the format string cannot be
        used with the arguments.
    :raises PayloadRefused: if the arguments have no canonical form.
    """
    if callable(options.key):
        try:
            value = options.key(*args, **kwargs)
        except Exception as error:  # any error of the user's function
            raise OptionRefused(f"unique_key of {name} raised {type(error).__name__}: {error}") from error
        if not isinstance(value, str):
            raise OptionRefused(f"unique_key of {name} returned {value!r}; it must return a text")
        return options.unique(name, value)
    with late:
        import inspect
    bound = inspect.signature(func, follow_wrapped=False).bind(*args, **kwargs)
    bound.apply_defaults()
    if options.key is None:
        return options.unique(name, _canonical(name, bound.arguments))
    try:
        return options.unique(name, options.key.format_map(bound.arguments))
    except (LookupError, AttributeError, TypeError, ValueError) as error:
        raise OptionRefused(
            f"unique_key of {name} is {options.key!r}, which fails with these arguments: {type(error).__name__}: "
            f"{error}"
        ) from error


def unique_message(options: UniqueOptions, message: str, payload: Any) -> Unique:
    """Return the key of a raw message: its ``unique_key``, or its text and payload.

    :raises OptionRefused: if the key is a function.
    :raises PayloadRefused: if the payload has no canonical form.
    """
    if callable(options.key):
        raise OptionRefused(f"unique_key is {options.key!r}; for a message it must be a text, or None")
    return options.unique(message, _canonical(repr(message), payload) if options.key is None else options.key)


def _canonical(name: str, value: Any) -> str:
    """Return a text that is the same for equal arguments."""
    try:
        return json.dumps(value, sort_keys=True, default=_plain)
    except (TypeError, ValueError, RecursionError) as error:
        raise PayloadRefused(
            f"the arguments of {name} have no canonical form for a unique key: {error}; give unique_key"
        ) from None


def _plain(value: Any) -> Any:
    if type(value).__name__ in _PLAIN:
        return [type(value).__name__, repr(value)]
    if isinstance(value, set | frozenset):
        return ["set", sorted(json.dumps(one, sort_keys=True, default=_plain) for one in value)]
    raise TypeError(f"{type(value).__name__} is not JSON")


def _seconds(value: Any) -> float | None:
    if value is None:
        return None
    seconds: Any = value
    if isinstance(value, str):
        try:
            seconds = schedule.duration(value)
        except OptionRefused as error:
            raise OptionRefused(f"unique_for: {error}") from None
    elif isinstance(value, timedelta):
        seconds = value.total_seconds()
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 < seconds <= _LONGEST:
        raise OptionRefused(
            f"unique_for is {value!r}; it must be seconds, a timedelta or a text like '1h', above 0 and at most 3650 "
            "days, or None"
        )
    return float(seconds)
