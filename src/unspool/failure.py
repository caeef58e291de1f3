"""An exception as text: its reason in one line, and its traceback.

The exception is a task's own: its ``__str__``, its attributes and those of its class may raise or return anything, so
nothing here trusts them. The text is printable, and can be stored by every backend.
"""

import traceback
from collections.abc import Iterator
from typing import Any

from .printable import printable

__all__ = ["describe", "message", "reason", "shown", "text"]

_REASON_SIZE = 300  # characters
_TRACEBACK_SIZE = 15_500  # characters; the end tells most
_MESSAGE_SIZE = 10_000  # characters in which the first line is looked for

# Of the built-in types: a metaclass can replace what ``kind.__module__`` gives, and a subclass ``exceptions``.
_module: Any = type.__dict__["__module__"].__get__
_qualname: Any = type.__dict__["__qualname__"].__get__
_bases: Any = type.__dict__["__mro__"].__get__
_namespace: Any = type.__dict__["__dict__"].__get__
_exceptions: Any = BaseExceptionGroup.__dict__["exceptions"].__get__


def reason(exception: BaseException) -> str:
    """Returns the type and the first line of an exception: ``ValueError: order 17 has no price``.

    Of a group it is that of the first exception in it, and the number of the others:
    ``ValueError: order 17 has no price (and 2 more in ExceptionGroup)``.
    """
    first, *others = _leaves(exception)
    name, said = _name(type(first)), message(first)
    line = printable(f"{name}: {said}" if said else name)
    end = f" (and {len(others)} more in {printable(_name(type(exception)))})" if others else ""
    size = max(_REASON_SIZE - len(end), 0)
    return f"{line}{end}" if len(line) <= size else f"{line[: size - 1]}…{end}"


def message(exception: BaseException) -> str:
    """Returns the first line of an exception's message that is not empty, printable and without the type."""
    lines = text(exception)[:_MESSAGE_SIZE].splitlines()
    return next((printable(line.strip()) for line in lines if line.strip()), "")


def text(exception: BaseException) -> str:
    """Returns an exception's whole message as it is."""
    try:
        return str.__str__(str(exception))  # an instance of a subclass of str is copied
    except BaseException:  # noqa: BLE001  the exception's own __str__
        return "<exception str() failed>"  # as Python's tracebacks say


def describe(exception: BaseException, frames: Any = None) -> str:
    """Returns the reason in the first line, and the traceback in the lines below it.

    There is no traceback where it would only repeat the reason, and for groups whose class replaces ``exceptions``.

    :param frames: the traceback object to begin with.
    """
    first = reason(exception)
    if _has_odd_group(exception):
        return first
    try:
        whole = "".join(traceback.format_exception(type(exception), exception, frames)).strip()
    except BaseException:  # noqa: BLE001  the exception's own attributes
        return first
    lines = "\n".join(map(printable, whole[-_TRACEBACK_SIZE:].split("\n")))[-_TRACEBACK_SIZE:]
    return first if lines == first else f"{first}\n{lines}"


def shown(value: object) -> str:
    """Returns the ``repr`` of an object, printable; its type where its ``__repr__`` raises."""
    try:
        return printable(str.__str__(repr(value)))
    except BaseException:  # noqa: BLE001  the object's own __repr__
        return printable(f"<{_name(type(value))} object>")


def _leaves(exception: BaseException) -> Iterator[BaseException]:
    """The exceptions in a group and in the groups within it, in order; or the exception alone."""
    waiting = [exception]
    while waiting:
        one = waiting.pop()
        if issubclass(type(one), BaseExceptionGroup):
            waiting += reversed(_exceptions(one))
        else:
            yield one


def _has_odd_group(exception: BaseException) -> bool:
    """Whether a group in it replaces ``exceptions``: if that has no end, ``traceback`` takes minutes to give up."""
    waiting = [exception]
    while waiting:
        one = waiting.pop()
        if issubclass(type(one), BaseExceptionGroup):
            own = (_namespace(kind) for kind in _bases(type(one)) if kind not in ExceptionGroup.__mro__)
            if any("exceptions" in names or "__getattribute__" in names for names in own):
                return True
            waiting += _exceptions(one)
    return False


def _name(kind: type) -> str:
    """The name as Python's tracebacks show it: without the module for built-in classes and those of a script."""
    try:
        module = _module(kind)
    except AttributeError:  # of a class that was made without one
        module = ""
    known = module if type(module) is str else "<unknown>"
    return str(_qualname(kind)) if known in ("", "builtins", "__main__") else f"{known}.{_qualname(kind)}"
