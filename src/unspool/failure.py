"""The text of an exception: its reason in one line, and its traceback.

The exception comes from a task: its ``__str__``, its attributes and those of its class may raise or return anything, so
this module trusts none of them. The text is printable, and every backend can store it.
"""

import traceback
from collections.abc import Iterator
from typing import Any

from .printable import printable

__all__ = ["describe", "message", "reason", "shown", "text"]

_REASON_SIZE = 300  # characters
_TRACEBACK_SIZE = 15_500  # characters; the end is the most useful part
_MESSAGE_SIZE = 10_000  # characters that are searched for the first line

# Taken from the built-in types: a metaclass can replace ``kind.__module__``, and a subclass ``exceptions``.
_module: Any = type.__dict__["__module__"].__get__
_qualname: Any = type.__dict__["__qualname__"].__get__
_bases: Any = type.__dict__["__mro__"].__get__
_namespace: Any = type.__dict__["__dict__"].__get__
_exceptions: Any = BaseExceptionGroup.__dict__["exceptions"].__get__


def reason(exception: BaseException) -> str:
    """Return the type and the first line of an exception: ``ValueError: order 17 has no price``.

    For a group, return the reason of the first exception in it and the number of the others: ``ValueError: order 17 has
    no price (and 2 more in ExceptionGroup)``.
    """
    first, *others = _leaves(exception)
    name, said = _name(type(first)), message(first)
    line = printable(f"{name}: {said}" if said else name)
    end = f" (and {len(others)} more in {printable(_name(type(exception)))})" if others else ""
    size = max(_REASON_SIZE - len(end), 0)
    return f"{line}{end}" if len(line) <= size else f"{line[: size - 1]}…{end}"


def message(exception: BaseException) -> str:
    """Return the first line of an exception's message that is not empty, made printable, without the type."""
    lines = text(exception)[:_MESSAGE_SIZE].splitlines()
    return next((printable(line.strip()) for line in lines if line.strip()), "")


def text(exception: BaseException) -> str:
    """Return an exception's whole message unchanged."""
    try:
        return str.__str__(str(exception))  # an instance of a subclass of str is copied
    except BaseException:  # noqa: BLE001  the exception's own __str__
        return "<exception str() failed>"  # as Python's tracebacks say


def describe(exception: BaseException, frames: Any = None) -> str:
    """Return the reason in the first line, and the traceback in the lines below it.

    The traceback is omitted if it would only repeat the reason, and for groups whose class replaces ``exceptions``.

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
    """Return the printable ``repr`` of an object; its type if its ``__repr__`` raises."""
    try:
        return printable(str.__str__(repr(value)))
    except BaseException:  # noqa: BLE001  the object's own __repr__
        return printable(f"<{_name(type(value))} object>")


def _leaves(exception: BaseException) -> Iterator[BaseException]:
    """Yield the exceptions of a group and its nested groups in order; a plain exception yields itself."""
    waiting = [exception]
    while waiting:
        one = waiting.pop()
        if issubclass(type(one), BaseExceptionGroup):
            waiting += reversed(_exceptions(one))
        else:
            yield one


def _has_odd_group(exception: BaseException) -> bool:
    """Return whether a group in it replaces ``exceptions``.

    If these never end, ``traceback`` takes minutes to give up.
    """
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
    """Return the name as Python's tracebacks show it: without the module for built-in classes and those of a script."""
    try:
        module = _module(kind)
    except AttributeError:  # the class was made without a module
        module = ""
    known = module if type(module) is str else "<unknown>"
    return str(_qualname(kind)) if known in ("", "builtins", "__main__") else f"{known}.{_qualname(kind)}"
