"""Task types, which handle messages, and the registry in which a worker finds them."""

from collections.abc import Awaitable
from typing import Any, ClassVar

from .errors import OptionRefused
from .functions import find_function, registry
from .options import TaskOptions
from .results import ResultProcessed, ResultRescheduled, ResultSkipped, TaskResult, is_awaitable

__all__ = ["SpoolerFunctionCallTask", "SpoolerTask", "defines_tasks", "spooler_task_types", "uwsgi_verdict"]

spooler_task_types: dict[str, type["SpoolerTask"]] = {}
"""The task types, by type id.

``SpoolerTask.__init_subclass__`` registers each subclass that has a ``type_id``.
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
            f"{known.__module__}:{known.__qualname__} already has; choose another one, or derive from that class"
        )


class SpoolerTask:
    """A task type, which handles messages.

    :param name: the name of the task; in a directory, that of its file.
    :param message: the text of the message.
    :param payload: the object that was sent, or None.

    A subclass with its own ``type_id`` handles the messages ``ucfg_<type_id>`` and ``<type_id>``.
    """

    __slots__ = ("message", "name", "payload")

    type_id: ClassVar[str] = ""
    options: ClassVar[TaskOptions] = TaskOptions()
    """The retries and limits of tasks of this type."""

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
        """Process the task.

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
            raise OptionRefused(
                f"options of {type(self).__qualname__} is {options!r}; make them with TaskOptions.of(...)"
            )
        return options


class SpoolerFunctionCallTask(SpoolerTask):
    """The task type of function calls."""

    __slots__ = ()

    type_id = "fcall"

    def process(self) -> Any:
        """Call the function.

        Return one of the results of :meth:`SpoolerTask.process`; for an ``async def`` function, a coroutine that
        returns one.

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
    """Return whether this program defines any task."""
    return bool(registry.functions) or spooler_task_types.keys() > {SpoolerFunctionCallTask.type_id}


def uwsgi_verdict(returns: str, result: Any) -> Any:
    """Return the result that a return value stands for in uWSGI; for a coroutine, a coroutine that returns it.

    :param returns: uWSGI's code, if ``@spool`` or ``@spoolforever`` determine it; ``own`` if the function returns it.
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
