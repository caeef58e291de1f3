"""Task types, which handle messages, and the registry in which a worker finds them."""

from collections.abc import Awaitable
from typing import Any, ClassVar

from .errors import OptionRefused
from .functions import find_function, registry
from .options import TaskOptions
from .results import ResultProcessed, ResultRescheduled, ResultSkipped, TaskResult, is_awaitable

__all__ = ["SpoolerFunctionCallTask", "SpoolerTask", "defines_tasks", "spooler_task_types", "uwsgi_verdict"]

spooler_task_types: dict[str, type["SpoolerTask"]] = {}
"""Known task types handlers will store here runtime.

SpoolerTask subclasses are automatically registered in runtime by SpoolerTask.__init_subclass__.
"""


def _check_unique(subclass: type["SpoolerTask"]) -> None:
    """Check that the subclass does not replace an unrelated one with its ``type_id``.

    :raises OptionRefused: if it does. A subclass may replace its base, and a module may be imported again.
    """
    known = spooler_task_types.get(subclass.type_id, subclass)
    same = (known.__module__, known.__qualname__) == (subclass.__module__, subclass.__qualname__)
    if not same and not issubclass(subclass, known):
        raise OptionRefused(
            f"type_id of {subclass.__qualname__} is {subclass.type_id!r}, which "
            f"{known.__module__}:{known.__qualname__} has already; give it another one, or derive it from that class"
        )


class SpoolerTask:
    """A spooler task.

    :param name: the task's name: on a directory its file's.
    :param message: the text it was sent with.
    :param payload: the object it was sent with, or None.

    A subclass with a ``type_id`` of its own handles the messages ``ucfg_<type_id>`` and ``<type_id>``.
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
            _check_unique(cls)
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
        """Return the options for retries and limits of this task.

        :raises OptionRefused: if they are invalid.
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
        """Call the function.

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


def defines_tasks() -> bool:
    """Return whether this program has any task of its own."""
    return bool(registry.functions) or spooler_task_types.keys() > {SpoolerFunctionCallTask.type_id}


def uwsgi_verdict(returns: str, result: Any) -> Any:
    """Return what a function that was written for uWSGI meant; for a coroutine's, a coroutine that gives it.

    :param returns: uWSGI's code, where ``@spool`` or ``@spoolforever`` fix it; ``own`` where the function returns it.
    """
    if is_awaitable(result):
        return _verdict_later(returns, result)
    if issubclass(type(result), TaskResult):  # not isinstance(), which uses the object's own ``__class__``
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
