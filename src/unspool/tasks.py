"""What can be run: task types, task functions, and the registries in which a worker finds them."""

import functools
import os
import sys
from collections.abc import Awaitable, Callable, Iterable, Mapping
from types import BuiltinFunctionType, FunctionType, MethodDescriptorType, MethodType
from typing import Any, ClassVar, Generic, NamedTuple, ParamSpec, Self, TypedDict, TypeVar, Unpack

from .codec import FCALL, SERIALIZERS
from .errors import FunctionRefused, NoHandler, OptionRefused
from .message import Message
from .results import ResultProcessed, ResultRescheduled, ResultSkipped, TaskResult
from .retry import RetryPolicy
from .schedule import Postpone, check_priority, to_due

__all__ = [
    "FunctionTask",
    "SpoolerFunctionCallTask",
    "SpoolerTask",
    "TaskKeywords",
    "TaskOptions",
    "call_message",
    "defines_tasks",
    "find_function",
    "full_name",
    "function_names",
    "spooler_task_types",
    "uwsgi_verdict",
]

P = ParamSpec("P")
R = TypeVar("R")
Send = Callable[[list[Message], Any, Any], list[str]]
"""Sends messages to a spooler (a name, a Spooler or None for the default), within the transaction of a connection or
None; the decorator brings it along."""

spooler_task_types: dict[str, type["SpoolerTask"]] = {}
"""Known task types handlers will store here runtime.

SpoolerTask heirs are automatically registered in runtime by SpoolerTask.__init_subclass__.
"""

_functions: dict[str, "FunctionTask[Any, Any]"] = {}


class TaskKeywords(TypedDict, total=False):
    """What ``Spooler.task`` takes."""

    priority: int | None
    postpone: Postpone
    max_attempts: int
    retry_delay: float
    retry_backoff: float
    retry_jitter: float
    timeout: float | None
    serializer: str
    release_skipped: bool


_ROUTINES = (FunctionType, BuiltinFunctionType, MethodType, MethodDescriptorType)
_LONGEST = 365 * 86400  # seconds of a time limit
_RETRY_KEYWORDS = ("delay", "backoff", "jitter")


class _Options(NamedTuple):
    priority: int | None
    postpone: Postpone
    retry: RetryPolicy
    timeout: float | None
    serializer: str
    release_skipped: bool


class TaskOptions(_Options):
    """How a kind of task is sent and run.

    :param priority: a number, 0 or more; smaller runs first. None runs after all numbers.
    :param postpone: a timedelta from the call, or a datetime (aware as it says, naive as local time).
    :param retry: how often and how soon it runs again after a failure.
    :param timeout: seconds a run may take; None for no limit.
    :param serializer: ``pickle`` or ``json``.
    :param release_skipped: True if ``None`` means that another handler must take the task: it is then offered again
        with the back-off and the limit of a failed one, instead of ending as skipped.
    :raises OptionRefused: when a value is not one the option can have.
    """

    __slots__ = ()

    def __new__(
        cls,
        priority: int | None = None,
        postpone: Postpone = None,
        retry: RetryPolicy = RetryPolicy(),  # noqa: B008  it is frozen
        timeout: float | None = None,
        serializer: str = "pickle",
        release_skipped: bool = False,
    ) -> Self:
        check_priority(priority)
        to_due(postpone, 0.0)
        if serializer not in SERIALIZERS:
            raise OptionRefused(f"serializer is {serializer!r}; there are {', '.join(SERIALIZERS)}")
        if timeout is not None and (
            isinstance(timeout, bool) or not isinstance(timeout, int | float) or not 0 < timeout <= _LONGEST
        ):
            raise OptionRefused(
                f"timeout is {timeout!r}; it must be a number of seconds above 0 and at most {_LONGEST}, or None"
            )
        return super().__new__(cls, priority, postpone, retry, timeout, serializer, release_skipped)

    @classmethod
    def of(cls, **keywords: Unpack[TaskKeywords]) -> "TaskOptions":
        """The options that a decorator was given.

        :raises OptionRefused: also for an option that there is not.
        """
        unknown = keywords.keys() - TaskKeywords.__annotations__.keys()
        if unknown:
            known = ", ".join(TaskKeywords.__annotations__)
            raise OptionRefused(f"task() has no option {', '.join(sorted(unknown))}; there are {known}")
        options: dict[str, Any] = dict(keywords)
        retry = {name: options.pop(f"retry_{name}") for name in _RETRY_KEYWORDS if f"retry_{name}" in options}
        if "max_attempts" in options:
            retry["max_attempts"] = options.pop("max_attempts")
        return cls(retry=RetryPolicy(**retry), **options)


class SpoolerTask:
    """Consolidates information for a spooler task.

    :param name: the task's name: on a directory its file's.
    :param message: the text it was sent with.
    :param payload: the object it was sent with, or None.

    An heir with a ``type_id`` of its own handles the messages ``ucfg_<type_id>`` and ``<type_id>``.
    """

    __slots__ = ("message", "name", "payload")

    type_id: ClassVar[str] = ""
    options: ClassVar[TaskOptions] = TaskOptions()
    """How tasks of this type are retried and limited."""

    mark_processed = ResultProcessed
    mark_skipped = ResultSkipped
    mark_rescheduled = ResultRescheduled

    def __init__(self, name: str, message: str, payload: Any) -> None:
        self.name = name
        self.message = message
        self.payload = payload

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if not isinstance(cls.type_id, str):
            raise OptionRefused(f"type_id of {cls.__qualname__} is {cls.type_id!r}; it must be a string")
        if not isinstance(cls.options, TaskOptions):
            raise OptionRefused(f"options of {cls.__qualname__} is {cls.options!r}; make them with TaskOptions.of(...)")
        if cls.type_id:
            spooler_task_types[cls.type_id] = cls

    def process(self) -> TaskResult | bool | None:
        """Processes the task.

        Supported results:
            * `None` - mark as ignored (skipped)
            * TaskResult - result type logic
            * exception - mark to retry
            * other - mark as processed
        """
        return True

    def run_options(self) -> TaskOptions:
        """The options that this task is retried and limited by.

        :raises OptionRefused: if they are none.
        """
        options = type(self).options
        if not isinstance(options, TaskOptions):
            raise OptionRefused(f"options of {type(self).__qualname__} is {options!r}, and no TaskOptions")
        return options


class SpoolerFunctionCallTask(SpoolerTask):
    """Function call type. Allows delegating function calls to spoolers."""

    __slots__ = ()

    type_id = "fcall"

    def process(self) -> Any:
        """Calls the function.

        Supported results are those of :meth:`SpoolerTask.process`; for an ``async def`` function, a coroutine that
        gives one of them.

        :raises NoHandler: if this program has no such function.
        """
        payload = self.payload
        args = payload["arg"]
        if payload.get("takes") == "message":  # a function of uwsgidecorators; uWSGI adds the name of the file
            args = ({"spooler_task_name": self.name, **args[0]},)
        result = find_function(payload["func"]).call_local(*args, **payload["kwg"])
        return uwsgi_verdict(payload["returns"], result) if "returns" in payload else result

    def run_options(self) -> TaskOptions:
        return find_function(self.payload["func"]).options


class FunctionTask(Generic[P, R]):
    """A function that runs later: called, it spools and returns the task's id. Made by ``Spooler.task``.

    It keeps the name, docstring and signature of the original.

    :param name: its name on the wire, where it is not one that a worker could import.
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
        self.name = name or _wire_name(func)
        self.options = options
        self.spooler = spooler
        self._connection = connection
        self._send = send
        self._func = func
        self.__doc__ = func.__doc__
        functools.update_wrapper(self, func)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> str:
        """Spools the call and returns the task's id: on a directory the absolute path of its file.

        :raises PayloadRefused: if an argument cannot be serialised.
        :raises NoSpooler: if no spooler is configured.
        :raises SpoolerUnusable: if the spooler cannot take it; then nothing was sent.
        """
        return self._send([self.message(*args, **kwargs)], self.spooler, self._connection)[0]

    enqueue = __call__

    def enqueue_many(self, calls: Iterable[Any]) -> list[str]:
        """Spools many calls, sharing their syncs, and returns their ids in order.

        :param calls: for each call a tuple or list of arguments, a mapping of keyword arguments, or one plain argument.
        :raises PayloadRefused: before anything is sent.
        """
        return self._send([self._message_of(call) for call in calls], self.spooler, self._connection)

    def call_local(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Calls the original here and now."""
        return self._func(*args, **kwargs)

    def message(self, *args: P.args, **kwargs: P.kwargs) -> Message:
        """The message that a call would send, for ``Spooler.send_many``."""
        options = self.options
        due = None if options.postpone is None else to_due(options.postpone)
        return call_message(self.name, args, kwargs, options.priority, due, options.serializer)

    def using(self, **changes: Any) -> "FunctionTask[P, R]":
        """The same task with other options: ``priority``, ``postpone``, ``spooler``, ``serializer``; or with a
        ``connection`` of psycopg's, SQLAlchemy's or Django's to the database of a PostgreSQL spooler: the task is then
        sent in that connection's transaction, committed with it or not at all.

        :raises OptionRefused: if a value is not one the option can have.
        """
        spooler = changes.pop("spooler", self.spooler)
        connection = changes.pop("connection", self._connection)
        unknown = changes.keys() - {"priority", "postpone", "serializer"}
        if unknown:
            raise OptionRefused(
                f"using() takes priority, postpone, spooler, serializer and connection, not "
                f"{', '.join(sorted(unknown))}; "
                "what governs the run is set where the task is defined"
            )
        options = TaskOptions(**(self.options._asdict() | changes))
        return FunctionTask(self._func, options, self._send, spooler, self.name, connection)

    def register(self) -> "FunctionTask[P, R]":
        """Makes the function known to workers of this program."""
        _functions[self.name] = self
        _functions[self._func.__name__] = self  # other programs' tasks name the bare function
        return self

    def _message_of(self, call: Any) -> Message:
        anything: Callable[..., Message] = self.message
        if isinstance(call, Mapping):
            return anything(**call)
        if isinstance(call, list | tuple):
            return anything(*call)
        return anything(call)

    def __repr__(self) -> str:
        return f"<task {self.name}>"


def call_message(
    name: str,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    priority: int | None = None,
    due: float | None = None,
    serializer: str = "pickle",
) -> Message:
    """The message that calls a function, whether or not this program has it.

    :param name: ``module:qualname``.
    :param due: unix seconds before which it must not run; None for at once.
    """
    payload = {
        "spooler": None,
        "priority": priority,
        "postpone": None,
        "func": name.rpartition(":")[2].rpartition(".")[2],  # bare, for uwsgiconf; unspool looks at the message's task
        "arg": args,
        "kwg": kwargs,
    }
    return Message(FCALL, payload, name, priority, due, serializer)


def defines_tasks() -> bool:
    """Whether this program has any task of its own."""
    return bool(_functions) or spooler_task_types.keys() > {SpoolerFunctionCallTask.type_id}


def function_names() -> list[str]:
    """The functions that this program can run, as the wire names them."""
    return sorted({task.name for task in _functions.values()})


def find_function(name: str) -> FunctionTask[Any, Any]:
    """The task function of a name from the wire.

    :raises NoHandler: if this program has none.
    """
    try:
        return _functions[name]
    except KeyError:
        raise NoHandler(
            f"no task function {name!r} in this program; was it renamed, or is its module not imported?"
        ) from None


def _wire_name(func: Callable[..., Any]) -> str:
    """``module:qualname``; a script's functions are named by the file, as its worker will import it.

    :raises FunctionRefused: if a worker could not find the function by its name.
    """
    qualname = getattr(func, "__qualname__", None)
    if not callable(func) or not isinstance(func, _ROUTINES) or qualname is None:
        raise FunctionRefused(f"{func!r} is not a function; decorate one that is defined with def or async def")
    if "<lambda>" in qualname or "<locals>" in qualname:
        kind = "a lambda" if "<lambda>" in qualname else "defined inside another function"
        raise FunctionRefused(f"{qualname} is {kind}, so no worker could find it; define it at the top of a module")
    return full_name(func)


def full_name(func: Callable[..., Any]) -> str:
    """``module:qualname``, also of a function that no import would find by it."""
    return f"{_module_name(func)}:{getattr(func, '__qualname__', func.__name__)}"


def _module_name(func: Callable[..., Any]) -> str:
    """The module as another process would import it, where this one runs its file under another name."""
    module = func.__module__
    if module != "__main__" and not module.startswith("uwsgi_file_"):
        return module
    loaded = sys.modules[module]
    spec, path = getattr(loaded, "__spec__", None), getattr(loaded, "__file__", None)
    if spec is not None and module == "__main__":
        return str(spec.name)
    return os.path.splitext(os.path.basename(path))[0] if path else module


def uwsgi_verdict(returns: str, result: Any) -> Any:
    """What a function that was written for uWSGI meant; for a coroutine's, a coroutine that gives it.

    :param returns: uWSGI's code, where ``@spool`` or ``@spoolforever`` fix it; ``own`` where the function returns it.
    """
    if hasattr(result, "__await__"):
        return _verdict_later(returns, result)
    if isinstance(result, TaskResult):
        return result
    match returns if returns != "own" else str(result):
        case "-2":
            return ResultProcessed(result)
        case "0":
            return ResultSkipped(result)
        case _:
            return ResultRescheduled(result)


async def _verdict_later(returns: str, result: Awaitable[Any]) -> Any:
    return uwsgi_verdict(returns, await result)
