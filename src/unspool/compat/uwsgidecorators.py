"""``uwsgidecorators`` without uWSGI: ``spool``, ``spoolraw`` and ``spoolforever``, under their names and signatures.

::

    from unspool.compat.uwsgidecorators import spool      # was: from uwsgidecorators import spool

A call sends the same message as uwsgidecorators, so uWSGI's spooler can run it too, and tasks sent by uwsgidecorators
run here. Only arguments beyond the 65535 bytes of uWSGI's variables, which uWSGI truncates, are sent in a form of
unspool.

One thing differs: a task that raises, or returns ``SPOOL_RETRY``, runs again after a growing delay, and is dead after
20 attempts. A task of ``spoolforever`` has no such limit.
"""

import functools
from collections.abc import Callable, Mapping
from sys import maxsize
from typing import Any, overload

from .. import codec, uwsgi
from ..backends.base import check_period
from ..functions import FunctionTask, call_message
from ..message import Content, Message
from ..naming import full_name
from ..options import TaskOptions
from ..retry import RetryPolicy
from ..spooler import Spooler
from ..tasks import uwsgi_verdict
from .uwsgi import SPOOL_IGNORE, SPOOL_OK, SPOOL_RETRY
from .variables import fits, pack, send

__all__ = ["SPOOL_IGNORE", "SPOOL_OK", "SPOOL_RETRY", "SpoolFunction", "spool", "spoolforever", "spoolraw"]

_SPECIAL = ("message_dict", "spooler", "priority", "at", "body")
_NOT_OFFERED = (
    *("cron", "filemon", "get_free_signal", "rbtimer", "signal", "timer"),
    *("farm", "farm_loop", "mule", "mule_brain", "mule_brainloop", "mulefunc", "muleloop", "mulemsg", "mulemsg_loop"),
    *("erlang", "harakiri", "lock", "postfork", "rpc", "thread"),
)
_pickle = codec.SERIALIZERS["pickle"].dump


class SpoolFunction:
    """A function whose call sends a task. The decorators create it.

    ``f`` is the original function. ``spool`` is equivalent to a call, also on the original, as in uwsgidecorators.
    """

    def __init__(self, f: Callable[..., Any], pass_arguments: bool, returns: str, options: TaskOptions) -> None:
        uwsgi.enter()
        self.f = f
        self.pass_arguments = pass_arguments
        self._name = full_name(f)  # two modules may have functions with the same name
        self._returns = returns
        self._register(options)
        f.spool = self.__call__  # type: ignore[attr-defined]

    def __call__(self, *args: Any, **kwargs: Any) -> bytes:
        """Spool a call, and return the path of its file, as uWSGI does.

        With ``pass_arguments``, the arguments are the function's, except the keyword arguments ``spooler`` (a
        directory), ``priority`` (0 or more, smaller runs first) and ``at`` (Unix time). Without it, they are the
        message: a dict, keyword arguments, or both. Values are str, bytes or numbers, and ``body`` may be large.

        :raises OptionRefused, PayloadRefused, NoSpooler: if nothing was sent.
        :raises SpoolerUnusable: if nothing was sent, unless its ``sent`` has the task's id.
        """
        given: dict[Any, Any] = {"ud_spool_func": self.f.__name__, "unspool_task": self._name}
        if self._returns != "own":
            given["ud_spool_ret"] = self._returns
        if self.pass_arguments:
            given |= {key: kwargs.pop(key) for key in _SPECIAL if key in kwargs}
            content = pack(given)
            return send(self._with_arguments(content, args, kwargs), content.vars.get("spooler"))
        message: Mapping[Any, Any] = args[0] if args else {}
        content = pack({**given, **message, **kwargs})
        return send(content, content.vars.get("spooler"))

    def spool(self, *args: Any, **kwargs: Any) -> bytes:
        """Spool a call, as calling the object does."""
        return self(*args, **kwargs)

    def __repr__(self) -> str:
        return f"<spool function {self._name}>"

    def _register(self, options: TaskOptions) -> None:
        @functools.wraps(self.f)
        def run(*args: Any, **kwargs: Any) -> Any:
            return uwsgi_verdict(self._returns, self.f(*args, **kwargs))

        FunctionTask(run, options, _send_messages, name=self._name).register()

    def _with_arguments(self, content: Content, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Content:
        call = call_message(self._name, args, kwargs, content.priority, content.due)
        try:
            vars = {**content.vars, "args": _pickle(args), "kwargs": _pickle(kwargs)}
        except Exception:  # noqa: BLE001  the caller's own pickling code
            return codec.encode(call)  # raises, naming the argument
        if fits(vars):
            return content._replace(vars=vars)
        return codec.encode(call._replace(payload={**call.payload, "returns": self._returns}))


_Decorate = Callable[[Callable[..., Any]], SpoolFunction]


@overload
def spool(f: Callable[..., Any], pass_arguments: bool = False) -> SpoolFunction: ...
@overload
def spool(f: None = None, pass_arguments: bool = False) -> _Decorate: ...
def spool(f: Callable[..., Any] | None = None, pass_arguments: bool = False) -> SpoolFunction | _Decorate:
    """Decorate a function so that a call spools a task. The task is done unless it raises.

    :param pass_arguments: True if the function takes the call's arguments, and not the message as a dict.
    """
    return _decorate(f, pass_arguments, str(SPOOL_OK), TaskOptions())


@overload
def spoolraw(f: Callable[..., Any], pass_arguments: bool = False) -> SpoolFunction: ...
@overload
def spoolraw(f: None = None, pass_arguments: bool = False) -> _Decorate: ...
def spoolraw(f: Callable[..., Any] | None = None, pass_arguments: bool = False) -> SpoolFunction | _Decorate:
    """Decorate a function so that a call spools a task. It returns ``SPOOL_OK``, ``SPOOL_RETRY`` or ``SPOOL_IGNORE``.

    :param pass_arguments: as for :func:`spool`.
    """
    return _decorate(f, pass_arguments, "own", TaskOptions())


@overload
def spoolforever(f: Callable[..., Any], pass_arguments: bool = False, *, period: float = ...) -> SpoolFunction: ...
@overload
def spoolforever(f: None = None, pass_arguments: bool = False, *, period: float = ...) -> _Decorate: ...
def spoolforever(
    f: Callable[..., Any] | None = None, pass_arguments: bool = False, *, period: float = 30.0
) -> SpoolFunction | _Decorate:
    """Decorate a function so that a call spools a task that runs again and again, whatever it returns or raises.

    The task ends when it is removed, or after it has killed its worker three times.

    :param pass_arguments: as for :func:`spool`.
    :param period: seconds from the end of a run to the next, in place of uWSGI's ``spooler-frequency``.
    :raises OptionRefused: unless the period is a number above 0, and at most a year.
    """
    steady = RetryPolicy(max_attempts=maxsize, delay=check_period(period), backoff=1, jitter=0)
    return _decorate(f, pass_arguments, str(SPOOL_RETRY), TaskOptions(retry=steady))


def __getattr__(name: str) -> Any:
    if name in _NOT_OFFERED:
        # Not an AttributeError, for which ``from ... import`` would show its own message.
        raise ImportError(
            f"unspool.compat.uwsgidecorators has no {name}: only spool, spoolraw and spoolforever work without uWSGI",
            name=__name__,
        )
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _decorate(
    f: Callable[..., Any] | None, pass_arguments: bool, returns: str, options: TaskOptions
) -> SpoolFunction | _Decorate:
    if f is None:
        return lambda f: SpoolFunction(f, pass_arguments, returns, options)
    return SpoolFunction(f, pass_arguments, returns, options)


def _send_messages(messages: list[Message], spooler: Any, connection: Any = None) -> list[str]:
    return Spooler.send_many(messages, spooler=spooler, connection=connection)
