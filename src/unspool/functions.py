"""Task functions, which ``Spooler.task`` creates, and the registry in which a worker finds them."""

import functools
import importlib
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from types import CodeType
from typing import TYPE_CHECKING, Any, Generic, NoReturn, ParamSpec, TypedDict, TypeVar, Unpack

from . import instances
from .arguments import Arguments
from .codec import FCALL
from .errors import FunctionRefused, NoHandler, OptionRefused, PayloadRefused
from .message import Message
from .naming import original, wire_name
from .options import TaskOptions, with_unique
from .schedule import Postpone, to_due
from .task_id import task_id
from .unique import UniqueFor, UniqueKey, UniqueMode, check_key, unique_call

__all__ = ["FunctionTask", "Send", "call_message", "check_spooler", "find_function", "function_names"]

P = ParamSpec("P")
R = TypeVar("R")
Send = Callable[[list[Message], Any, Any], list[str]]
"""A function that sends messages and returns their ids. Its arguments are the messages, the spooler (a name, a Spooler,
or None for the default) and the connection in whose transaction to send, or None.
"""


class UsingKeywords(TypedDict, total=False):
    """The keyword arguments of ``FunctionTask.using``."""

    priority: int | None
    postpone: Postpone
    serializer: str
    unique: UniqueMode | None
    unique_key: UniqueKey | None
    unique_for: UniqueFor | None
    spooler: Any
    connection: Any


class FunctionTask(Generic[P, R]):
    """A function whose call sends a task and returns the task's id. Made by ``Spooler.task``.

    It keeps the name, docstring, signature and attributes of the original, except attributes that a task has itself.

    :param name: the name in messages, if it is not the function's own importable name.
    """

    def __init__(
        self,
        func: Callable[P, R],
        options: TaskOptions,
        send: Send,
        spooler: Any = None,
        name: str | None = None,
        connection: Any = None,
    ) -> None:
        functools.update_wrapper(self, func, updated=())
        self.name = name or wire_name(func)
        self.options = options
        if options.unique is not None:
            check_key(options.unique, self.name, func)
        self.spooler = spooler
        self._connection = connection
        self._send = send
        self._func = func
        self._arguments = Arguments(func)
        own = vars(self)
        own |= {
            key: value
            for key, value in getattr(func, "__dict__", {}).items()
            if key not in own and not hasattr(FunctionTask, key)
        }

    def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> str:
        """Send the call, and return the task's id: on a directory the absolute path of its file.

        If the task is unique and another task has its key, nothing is sent. The id is that of the other task, and its
        ``new`` is False.

        :raises PayloadRefused: if the function does not accept these arguments, or one cannot be serialised.
        :raises NoSpooler: if no spooler is configured.
        :raises SpoolerUnusable: if the spooler cannot store it. Nothing was sent, unless ``sent`` has the task's id.
        """
        return task_id(self._send([self.message(*args, **kwargs)], self.spooler, self._connection)[0])

    enqueue = __call__

    def enqueue_many(self, calls: Iterable[Any]) -> list[str]:
        """Send many calls with shared syncs, and return their ids in order.

        :param calls: for each call a tuple or list of arguments, a mapping of keyword arguments, or one plain argument.
        :raises PayloadRefused: for invalid arguments. Nothing was sent.
        """
        if isinstance(calls, str | bytes | Mapping) or not isinstance(calls, Iterable):
            raise PayloadRefused(
                f"calls of {self.name} is a {type(calls).__name__}; pass a list with one entry for each call, "
                "such as [(1,), (2,)]"
            )
        return self._send([self._message_of(call) for call in calls], self.spooler, self._connection)

    def call_local(self, /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the original function directly, and return its result."""
        return self._func(*args, **kwargs)

    def message(self, /, *args: P.args, **kwargs: P.kwargs) -> Message:
        """Return the message that a call would send, for ``Spooler.send_many``.

        :raises PayloadRefused: if the function does not take these arguments.
        """
        self._arguments.check(self.name, args, kwargs)
        options = self.options
        due = None if options.postpone is None else to_due(options.postpone)
        message = call_message(self.name, args, kwargs, options.priority, due, options.serializer)
        if options.unique is None:
            return message
        return message._replace(unique=unique_call(options.unique, self.name, self._func, args, kwargs))

    def using(self, **changes: Unpack[UsingKeywords]) -> "FunctionTask[P, R]":
        """Return the same task with other options.

        :param priority, postpone, serializer, unique, unique_key, unique_for: as for ``Spooler.task``.
        :param spooler: a name, path, ``Spooler`` or backend to send to.
        :param connection: a connection of psycopg, SQLAlchemy or Django to the database of a PostgreSQL spooler. The
            task is sent in its open transaction: it is committed with it, or not sent.
        :raises OptionRefused: for an unknown option or an invalid value.
        """
        unknown = changes.keys() - UsingKeywords.__annotations__.keys()
        if unknown:
            raise OptionRefused(
                "using() takes priority, postpone, spooler, serializer, unique, unique_key, unique_for and connection, "
                f"not {', '.join(sorted(unknown))}; other options are set where the task is defined"
            )
        given: dict[str, Any] = dict(changes)
        spooler = check_spooler(given.pop("spooler")) if "spooler" in given else self.spooler
        connection = given.pop("connection", self._connection)
        options = TaskOptions(**(self.options._asdict() | with_unique(given, self.options.unique)))
        return FunctionTask(self._func, options, self._send, spooler, self.name, connection)

    def register(self) -> "FunctionTask[P, R]":
        """Register the function for workers of this program.

        :raises FunctionRefused: if another task already has this name. A module may be imported again.
        """
        registry.add(self)
        return self

    def _message_of(self, call: Any) -> Message:
        anything: Callable[..., Message] = self.message
        if isinstance(call, _POSITIONAL):  # first, because asking for a Mapping takes longer
            return anything(*call)
        if isinstance(call, Mapping):
            return anything(**call)
        return anything(call)

    def __get__(self, instance: object, owner: type) -> "FunctionTask[P, R]":
        if instance is not None and "." in self._func.__qualname__:  # not one only assigned in a class
            raise FunctionRefused(
                f"{self.name} is not a method, so it gets no self; "
                f"call it as {owner.__qualname__}.{self._func.__name__}"
            )
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        if self._connection is not None:
            raise TypeError(f"{self!r} is bound to a connection of this process and cannot be pickled")
        return _restore, (self.name, self.options, self.spooler)

    if not TYPE_CHECKING:  # otherwise a type checker would accept any attribute

        def __getattr__(self, name: str) -> NoReturn:
            hint = ""
            if name in _NAMES_OF_PEERS:
                hint = f"; to run it later, call it: {self._func.__name__}(...)"
                if name in _NAMES_WITH_TIME:
                    hint += f", or {self._func.__name__}.using(postpone=timedelta(...))(...)"
            raise AttributeError(
                f"task {self.__dict__.get('name')} has no attribute {name!r}{hint}", name=name, obj=self
            )

    def __repr__(self) -> str:
        return f"<task {self.name}>"


_NAMES_WITH_TIME = frozenset(
    {"apply_async", "schedule", "send_with_options", "enqueue_in", "enqueue_at", "defer_async"}
)
_NAMES_OF_PEERS = _NAMES_WITH_TIME | {"delay", "send", "s", "si", "defer", "kiq", "submit", "spool", "perform_async"}
"""The methods of other task queues for sending a task."""


class Registry:
    """The task functions of this program, by their names in messages."""

    def __init__(self) -> None:
        self.functions: dict[str, FunctionTask[Any, Any]] = {}
        self.bare: dict[str, list[FunctionTask[Any, Any]]] = {}
        """The tasks by the function's own name, which is all that uwsgiconf and uwsgidecorators send."""
        self._executions: dict[str, CodeType | None] = {}

    def add(self, task: FunctionTask[Any, Any]) -> None:
        """Add a task.

        :raises FunctionRefused: if another task has its name, unless the module is imported again.
        """
        execution = _execution(original(task._func))
        known = self.functions.get(task.name)
        if known is not None and not self._replaces(task, known, execution):
            raise FunctionRefused(
                f"{task.name} is the name of a task already (at {_place(known)}), and the one at {_place(task)} would "
                "replace it; give the function another name, or change the options of the one task with using()"
            )
        self.functions[task.name] = task
        self._executions[task.name] = execution
        same = self.bare.setdefault(task._func.__name__, [])
        same[:] = [one for one in same if one.name != task.name] + [task]

    def find(self, name: str) -> FunctionTask[Any, Any]:
        """Return the task function with a name from a message.

        :raises NoHandler: if this program has none, or several functions with the same bare name.
        """
        found = self.functions.get(name)
        if found is not None:
            return found
        same = self.bare.get(name, [])
        if len(same) == 1:
            return same[0]
        if same:
            names = ", ".join(sorted(one.name for one in same))
            raise NoHandler(f"{len(same)} task functions are named {name!r} in this program ({names}); keep one")
        namesakes = ", ".join(one.name for one in self.bare.get(_bare(name), []))
        raise NoHandler(
            f"no task function {name!r} in this program; "
            + (f"it has {namesakes}; " if namesakes else "")
            + "was it renamed, or is its module not imported?"
        )

    def _replaces(
        self, task: FunctionTask[Any, Any], known: FunctionTask[Any, Any], execution: CodeType | None
    ) -> bool:
        """Return whether both are the same task: decorated twice alike, or in another execution of the same module."""
        if task._func == known._func:
            return (task.options, task.spooler) == (known.options, known.spooler)
        new, old = original(task._func), original(known._func)
        if new is old or not hasattr(new, "__code__") or not hasattr(old, "__code__"):
            return False
        if new.__code__.co_filename != old.__code__.co_filename:
            return False
        return (
            new.__globals__ is not old.__globals__
            or new.__code__.co_firstlineno == old.__code__.co_firstlineno
            or execution is not self._executions.get(task.name)
        )


registry = Registry()


def _execution(func: Any) -> CodeType | None:
    """Return the running code of the module that defines the function. Each import has its own code object."""
    frame, namespace = sys._getframe(1), getattr(func, "__globals__", None)
    while frame is not None:
        if frame.f_globals is namespace and frame.f_code.co_name == "<module>":
            return frame.f_code
        frame = frame.f_back  # type: ignore[assignment]
    return None


def _place(task: FunctionTask[Any, Any]) -> str:
    code = getattr(original(task._func), "__code__", None)
    return f"{code.co_filename}:{code.co_firstlineno}" if code is not None else repr(task._func)


def _restore(name: str, options: TaskOptions, spooler: Any) -> FunctionTask[Any, Any]:
    """Return the task of a pickle, which contains its name and not its code.

    :raises NoHandler: if this program has no such task.
    """
    if name not in registry.functions:
        importlib.import_module(name.partition(":")[0])
    task = registry.find(name)
    if (task.options, task.spooler) == (options, spooler):
        return task
    return FunctionTask(task._func, options, task._send, spooler, task.name)


def check_spooler(given: Any) -> Any:
    """Return a valid spooler unchanged. A backend is registered, and its name returned.

    :raises OptionRefused: for anything but a name, a path, a Spooler or a backend.
    """
    if isinstance(given, os.PathLike):
        given = os.fspath(given)
    if isinstance(given, str) and given:
        return given
    if hasattr(given, "send_message_raw") and isinstance(getattr(given, "name", None), str):
        return given  # a Spooler, whose class is above this module
    if hasattr(given, "exchange"):
        return instances.add(given, "spooler")
    raise OptionRefused(
        f"spooler is {given!r}; it must be a name, a path, a Spooler or a backend"
        + (" (Spooler.get_by_basename returns None for a name that is not configured)" if given is None else "")
    )


_POSITIONAL = (list, tuple)


@functools.lru_cache(1024)
def _bare(name: str) -> str:
    """Return a function's own name, without its module and class."""
    return name.rpartition(":")[2].rpartition(".")[2]


def call_message(
    name: str,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    priority: int | None = None,
    due: float | None = None,
    serializer: str = "pickle",
) -> Message:
    """Return the message that calls a function, whether or not this program has the function.

    :param name: ``module:qualname``.
    :param due: unix seconds before which it must not run; None for at once.
    """
    payload = {
        "spooler": None,
        "priority": priority,
        "postpone": None,
        "func": _bare(name),  # for uwsgiconf; unspool reads the message's task
        "arg": args,
        "kwg": kwargs,
    }
    return Message(FCALL, payload, name, priority, due, serializer)


def function_names() -> list[str]:
    """Return the names of the functions that this program can run, as messages contain them."""
    return sorted(registry.functions)


def find_function(name: str) -> FunctionTask[Any, Any]:
    """Return the task function with a name from a message.

    :raises NoHandler: if this program has none, or several functions with the same bare name.
    """
    return registry.functions.get(name) or registry.find(name)
