"""The importable names of functions and classes, which messages contain and other processes can find."""

import os
import sys
from collections.abc import Callable, Mapping
from types import BuiltinFunctionType, FunctionType, MethodDescriptorType, MethodType
from typing import Any

from .errors import FunctionRefused

__all__ = ["full_name", "is_script", "module_of", "name_of_file", "original", "wire_name"]

_ROUTINES = (FunctionType, BuiltinFunctionType, MethodType, MethodDescriptorType)
_GENERATOR, _ASYNC_GENERATOR = 0x20, 0x200  # flags of code objects, from Python's inspect


def wire_name(func: Callable[..., Any]) -> str:
    """Return ``module:qualname``, the name by which a worker finds a function.

    :raises FunctionRefused: if no worker could find the function by a name, or could not call it.
    """
    qualname = getattr(func, "__qualname__", None)
    if not callable(func) or not isinstance(func, _ROUTINES) or qualname is None:
        raise FunctionRefused(f"{func!r} is not a function; decorate one that is defined with def or async def")
    if "<lambda>" in qualname or "<locals>" in qualname:
        kind = "a lambda" if "<lambda>" in qualname else "defined inside another function"
        raise FunctionRefused(f"{qualname} is {kind}, so no worker could find it; define it at the top of a module")
    code = getattr(func, "__code__", None)
    if code is not None:
        if code.co_flags & (_GENERATOR | _ASYNC_GENERATOR):
            raise FunctionRefused(
                f"{qualname} is a generator function, so a call of it would not run its body; "
                "return a list, or do the work in a loop without yield"
            )
        if "." in qualname and code.co_argcount and code.co_varnames[0] in ("self", "cls"):
            raise FunctionRefused(
                f"{qualname} is a method, and a worker has no instance to call it on; "
                "define a function at the top of the module, and pass it what it needs"
            )
    return full_name(func)


def full_name(func: Callable[..., Any]) -> str:
    """Return ``module:qualname`` without checking the kind of the function.

    :raises FunctionRefused: if no other process could import its module.
    """
    return f"{module_of(func)}:{getattr(func, '__qualname__', func.__name__)}"


def module_of(thing: Any) -> str:
    """Return the name under which another process imports the module of a function or class.

    A script's name is that of its file: ``app`` for ``python app.py``, ``shop.tasks`` for a file of a package.

    :raises FunctionRefused: if the module has no file that could be imported, as in an interactive session.
    """
    module = str(thing.__module__)
    if not is_script(module):
        if module in ("None", "builtins") and isinstance(thing, FunctionType):  # a namespace without a __name__
            raise FunctionRefused(f"{thing.__qualname__} is defined by exec() outside of any module; {_ADVICE}")
        return module
    namespace = _namespace(thing, module)
    spec, path = namespace.get("__spec__"), namespace.get("__file__")
    if spec is not None and not is_script(spec.name):
        return str(spec.name)
    name = name_of_file(path) if path and os.path.isfile(path) else ""
    if not name or name == "__main__":
        where = "an interactive session, a notebook, -c or standard input" if not name else "a file named __main__.py"
        raise FunctionRefused(f"{thing.__qualname__} is defined in {where}, so no worker could find it; {_ADVICE}")
    return name


_ADVICE = "define it at the top of a module that a worker can import"


def is_script(module: str) -> bool:
    """Return whether a module has this name in one process only: the script that Python or uWSGI runs."""
    return module in ("__main__", "__mp_main__") or module.startswith(("uwsgi_file_", "<"))


def name_of_file(path: str) -> str:
    """Return the module name of a file: its stem, with the packages that it is in."""
    folder, file = os.path.split(os.path.abspath(path))
    parts = [os.path.splitext(file)[0]]
    while os.path.isfile(os.path.join(folder, "__init__.py")):
        folder, package = os.path.split(folder)
        parts.insert(0, package)
    return ".".join(parts)


def original(func: Any) -> Any:
    """Return the function that ``functools.wraps`` was given, through any number of wrappers."""
    seen = {id(func)}
    while (inner := getattr(func, "__wrapped__", None)) is not None and id(inner) not in seen:
        seen.add(id(inner))
        func = inner
    return func


def _namespace(thing: Any, module: str) -> Mapping[str, Any]:
    """Return the namespace of a function or class. A profiler itself is ``__main__``, and runs a script in another."""
    found = getattr(original(thing), "__globals__", None)
    if found is None:
        found = vars(sys.modules[module]) if module in sys.modules else {}
    return found
