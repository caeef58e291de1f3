"""The check that arguments fit the function of a task, when the task is sent and not hours later in a worker."""

from collections.abc import Callable, Mapping
from typing import Any

from .errors import PayloadRefused

__all__ = ["Arguments"]

_VARARGS, _VARKEYWORDS = 0x04, 0x08  # flags of code objects, from Python's inspect


class Arguments:
    """The parameters of a function, read once from its code object, so that checking an ordinary call costs little.

    A wrapper made with ``functools.wraps`` is checked by its own parameters, because it may add or drop arguments.
    """

    __slots__ = ("_func", "_keywords", "_least", "_most", "_needed", "_positional")

    def __init__(self, func: Callable[..., Any]) -> None:
        self._func = func
        code = getattr(func, "__code__", None)
        self._least, self._most = -1, -2  # positional arguments; these values force a full check of each call
        self._needed: frozenset[str] = frozenset()
        self._keywords: frozenset[str] = frozenset()
        self._positional: tuple[str, ...] = ()
        if code is None or getattr(func, "__self__", None) is not None:
            return
        positional, only = code.co_argcount, code.co_kwonlyargcount
        names = code.co_varnames[: positional + only]
        by_keyword = getattr(func, "__kwdefaults__", None) or {}
        self._least = positional - len(getattr(func, "__defaults__", None) or ())
        if any(name not in by_keyword for name in names[positional:]):
            self._most = -2
        else:
            self._most = 1 << 30 if code.co_flags & _VARARGS else positional
        if not code.co_flags & (_VARARGS | _VARKEYWORDS) and not code.co_posonlyargcount:
            self._keywords, self._positional = frozenset(names), names[:positional]
            self._needed = frozenset(names[: self._least]) | {n for n in names[positional:] if n not in by_keyword}

    def check(self, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Check that the function accepts these arguments.

        :param name: the name of the function in the error message.
        :raises PayloadRefused: if it does not. The error names the parameter.
        """
        if not kwargs:
            if self._least <= len(args) <= self._most:
                return
        elif kwargs.keys() <= self._keywords and len(args) <= len(self._positional):
            taken = self._positional[: len(args)]
            if kwargs.keys().isdisjoint(taken) and self._needed <= kwargs.keys() | taken:
                return
        self._bind(name, args, kwargs)

    def _bind(self, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        import inspect  # takes some milliseconds, which few calls need

        try:
            signature = inspect.signature(self._func, follow_wrapped=False)
        except (TypeError, ValueError):  # a function written in C whose signature is unknown
            return
        try:
            signature.bind(*args, **kwargs)
        except TypeError as error:
            raise PayloadRefused(
                f"{name} does not take these arguments: {error}; its signature is {signature}"
            ) from None
