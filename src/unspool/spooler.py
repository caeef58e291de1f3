"""The seed's API: spoolers, tasks by decorator, raw messages, inspection."""

import logging
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta
from types import MethodType
from typing import Any, Optional, ParamSpec, Protocol, TypeVar, Union, Unpack, overload

from . import address, codec, importing, instances, lookup, registry, settings, uwsgi, wire
from .backends.base import Backend, Transactional
from .errors import OptionRefused, PayloadRefused
from .functions import FunctionTask, check_spooler
from .message import Entry, Message, State
from .options import TaskKeywords, TaskOptions
from .schedule import Postpone, check_priority, to_due
from .task_id import TaskId

__all__ = ["Spooler"]

P = ParamSpec("P")
R = TypeVar("R")
_log = logging.getLogger("unspool")
_WAITING = frozenset({State.READY, State.DEFERRED, State.RUNNING})


class _Decorate(Protocol):
    def __call__(self, func: Callable[P, R], /) -> FunctionTask[P, R]: ...


class _Task(Protocol):
    @overload
    def __call__(self, func: Callable[P, R], /) -> FunctionTask[P, R]: ...

    @overload
    def __call__(self, postpone: Postpone = None, /, **options: Unpack[TaskKeywords]) -> _Decorate: ...


class _TaskDecorator:
    """Allows task decoration using both Spooler class and object."""

    def __get__(self, instance: "Spooler | None", owner: type["Spooler"]) -> _Task:
        return MethodType(_task, owner if instance is None else instance)


def _task(spooler: Any, func: Any = None, /, **options: Unpack[TaskKeywords]) -> Any:
    """Decorator. Used to register a function which should be run in Spooler.

    ::

        @Spooler.task                                   # or @Spooler.task(), or @my_spooler.task
        def send_mail(to): ...

        @Spooler.task(max_attempts=5, timeout=30)
        async def fetch(url): ...

    :param priority: a number, 0 or more; smaller runs first, None after all numbers.
    :param postpone: a timedelta from the call, or a datetime (aware as it says, naive as local time). It may be given
        by position.
    :param max_attempts: runs in all before it is dead; 20.
    :param retry_delay: seconds, or a timedelta, before the second run; 5. Each further delay is ``retry_backoff`` (2)
        times as long.
    :param retry_jitter: a fraction by which a delay is randomly lengthened; 0.1.
    :param timeout: seconds, or a timedelta, that a run may take; no limit if None.
    :param serializer: ``pickle`` or ``json``.
    :param release_skipped: True if ``None`` leaves the task to another handler instead of ending it.
    :raises FunctionRefused: for a function that no worker could find or call: a lambda, a local function, a method, a
        generator function, one of an interactive session; and for a name that another task has already.
    :raises OptionRefused: for an unknown option, or a value that an option cannot have.
    """
    if isinstance(func, timedelta | datetime):
        options, func = {"postpone": func, **options}, None
    chosen = TaskOptions.of(**options)

    def decorate(func: Callable[P, R]) -> FunctionTask[P, R]:
        uwsgi.enter()
        return FunctionTask(func, chosen, _send, spooler if isinstance(spooler, Spooler) else None).register()

    return decorate if func is None else decorate(func)


_task.__name__ = _task.__qualname__ = "task"


class Spooler:
    """Gives an access to a spooler.

    :param name: the path of its directory, or its URL: ``postgresql://db/app?spooler=mail``,
        ``nats://a,b?spooler=mail``. As an attribute, a URL's user and password are left out.
    :param backend: an object in place of the name: its own name becomes the spooler's, and this process uses the object
        for all spoolers of that name.
    :raises OptionRefused: for a malformed URL, what is no path at all, or what is no backend.

    .. code-block:: python

        my_spooler = Spooler.get_by_basename('myspooler')

        # @Spooler.task() to run on first available or to run on `my_spooler`:
        @my_spooler.task(postpone=timedelta(seconds=1))
        def run_me(a, b='c'):
            ...

        # Now call this function as usual and it'll run in a spooler.
        run_me('some', b='other')
    """

    task = _TaskDecorator()

    @overload
    def __init__(self, name: str | os.PathLike[str]) -> None: ...

    @overload
    def __init__(self, *, backend: Backend) -> None: ...

    def __init__(self, name: str | os.PathLike[str] | None = None, *, backend: Backend | None = None) -> None:
        if backend is not None:
            if name is not None:
                raise OptionRefused(f"a Spooler has a name ({name!r}) or a backend, which has a name itself; give one")
            self.name = instances.add(backend)
            return
        if not isinstance(name, str | os.PathLike) or not (path := os.fspath(name)) or not isinstance(path, str):
            raise OptionRefused(f"the spooler's name is {name!r}; it must be a path, a URL or a configured base name")
        self.name = path if path in instances.known else address.name_of(path)

    def __str__(self) -> str:
        return self.name

    def __repr__(self) -> str:
        return f"Spooler({self.name!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Spooler) and other.name == self.name

    def __hash__(self) -> int:
        return hash(self.name)

    @classmethod
    def send_message_raw(
        cls,
        message: str,
        *,
        spooler: Union[str, os.PathLike[str], "Spooler", Backend, None] = None,
        priority: int | None = None,
        postpone: datetime | timedelta | None = None,
        payload: Any = None,
        connection: Any = None,
    ) -> str:
        """Send a message to a spooler.

        :param message: Message to pass using spooler. ``ucfg_<type id>`` or ``<type id>`` goes to the SpoolerTask
            subclass of that type id, any other to SpoolerTask itself.
        :param spooler: The spooler (id or directory) or the backend to use; the default one if not given.
        :param priority: Number. The priority of the message. Larger - less important.
        :param postpone: Postpone message processing till.
        :param payload: Object to pickle and pass within message.
        :param connection: to send in its transaction; see ``send_many``.
        :returns: the task's id: on a directory the absolute path of its file.
        :raises NoSpooler, OptionRefused, PayloadRefused: then nothing was sent.
        :raises SpoolerUnusable: then nothing was sent, unless its ``sent`` has the task's id.
        """
        raw = raw_message(message, priority=priority, postpone=postpone, payload=payload)
        return TaskId(_send([raw], spooler, connection)[0])

    @classmethod
    def send_many(
        cls,
        messages: Iterable[Message],
        *,
        spooler: Union[str, os.PathLike[str], "Spooler", Backend, None] = None,
        connection: Any = None,
    ) -> list[str]:
        """Send many messages, sharing their syncs, and return their ids in order.

        Each task is visible whole or not at all. Make messages with ``task.message(...)`` or
        :func:`unspool.raw_message`.

        :param connection: of psycopg, SQLAlchemy (also a Session) or Django, to the database of a PostgreSQL spooler.
            The tasks are sent in the transaction that is open on it: committed with it, or not at all.
        :raises NoSpooler, PayloadRefused: then nothing was sent.
        :raises SpoolerUnusable: its ``sent`` has the ids of the tasks that are in the queue; send only the others.
        :raises OptionRefused: for a connection that the spooler cannot use.
        """
        return _send(_checked(messages), spooler, connection)

    @classmethod
    def get_spoolers(cls) -> list["Spooler"]:
        """Return a list of registered spoolers."""
        return [cls(name) for name in settings.spooler_names()]

    @classmethod
    def get_by_basename(cls, name: str) -> Optional["Spooler"]:
        """Return spooler object for a given directory name, or a server's spooler of this name.

        If there is more than one spooler with the same directory base name, the first one is returned.

        If not found None is returned.

        :param name: Directory base name. E.g.: 'mydir' to get spooler for '/somewhere/here/is/mydir'
        """
        spoolers = cls.get_spoolers()
        for spooler in spoolers:
            if address.basename(spooler.name) == name:
                return spooler
        known = ", ".join(address.basename(one.name) for one in spoolers) or "none"
        _log.warning("no spooler is named %r (configured: %s); get_by_basename returns None", name, known)
        return None

    @classmethod
    def get_pids(cls) -> list[int]:
        """Return a list of all spooler processes IDs: this machine's live worker processes of all spoolers."""
        found = {
            info.pid
            for name in settings.spooler_names()
            for info in registry.backend(name).control.live()
            if info.role == "worker" and not info.host
        }
        return sorted(found)

    @classmethod
    def set_period(cls, seconds: float) -> bool:
        """Set how often the spooler runs: the interval of full scans of the directory, in running workers at once.

        Tasks do not wait for a scan if the kernel reports their arrival.

        :param seconds: a number above 0.
        :raises OptionRefused: for anything else.
        """
        for name in _configured():
            registry.backend(name).control.set_period(seconds)
        return True

    @classmethod
    def get_tasks(cls, limit: int | None = None) -> list[str]:
        """Return a list of spooler jobs (filenames in spooler directory): the ids of all waiting and running tasks.

        They cover all spoolers and priorities and come in the order in which they would run.

        :param limit: at most so many of each spooler.
        """
        return [
            entry.id for name in settings.spooler_names() for entry in registry.backend(name).entries(_WAITING, limit)
        ]

    @classmethod
    def read_task_file(cls, path: str) -> dict[str, Any]:
        """Return a spooler task information.

        Takes no lock and unpickles nothing.

        :param path: The relative or absolute path to the task to read, or a piece of its id that no other task has, as
            ``unspool ls`` shows it.
        :returns: uWSGI's keys (``spooler_task_name``, ``spooler``, ``priority``, ``at``, ``msg``, ``body``), and
            ``attempts``, ``state``, ``function``, ``size`` in bytes, ``due`` in unix seconds and ``reason``; ``{}`` if
            there is no such task.
        :raises OptionRefused: for what is no path.
        :raises AmbiguousId: for a piece that several tasks have.
        """
        if not isinstance(path, str | os.PathLike):
            raise OptionRefused(f"the path of the task is {path!r}; it must be a string, as sending returns it")
        found = lookup.find_task(path := os.fspath(path), registry.candidates(path))
        read = found[0].read(found[1].id) if found else None
        return _task_info(*read) if read else {}


def raw_message(
    message: str,
    *,
    priority: int | None = None,
    postpone: Postpone = None,
    payload: Any = None,
    serializer: str = "pickle",
) -> Message:
    """Return a message for ``Spooler.send_many``, with the parameters of ``Spooler.send_message_raw``.

    :raises OptionRefused: for a value that an option cannot have.
    """
    if not isinstance(message, str):
        raise OptionRefused(f"message is {message!r}; it must be a string")
    if not message:
        raise OptionRefused("message is empty; it must say which handler it is for")
    check_priority(priority)
    return Message(message, payload, None, priority, to_due(postpone), serializer)


def _checked(messages: Iterable[Any]) -> list[Message]:
    """Return the messages.

    :raises PayloadRefused: for anything but messages.
    """
    if isinstance(messages, str | bytes | Message) or not isinstance(messages, Iterable):
        raise PayloadRefused(f"messages is {messages!r:.200}; pass a list of messages, {_MAKE}")
    checked = list(messages)
    for at, message in enumerate(checked):
        if not isinstance(message, Message):
            raise PayloadRefused(f"messages[{at}] is {message!r:.200}, which is no message; {_MAKE}")
    return checked


_MAKE = "made by task.message(...) or unspool.raw_message(...)"


def _send(messages: Sequence[Message], spooler: Any, connection: Any = None) -> list[str]:
    uwsgi.enter()  # in case another module has made itself uWSGI's handler since
    if importing.app:
        _warn_of_import()
    envelopes = [codec.encode(message) for message in messages]
    if spooler is not None and not isinstance(spooler, Spooler):
        spooler = Spooler(check_spooler(spooler))
    if not envelopes:
        return []
    settings.check_sizes(envelopes)
    backend = registry.backend(None if spooler is None else spooler.name)
    if connection is None:
        return backend.send(envelopes)
    if not isinstance(backend, Transactional):
        raise OptionRefused(
            f"spooler {backend.name} cannot send within a transaction; only one on PostgreSQL takes a connection"
        )
    return backend.send_within(connection, envelopes)


def _warn_of_import() -> None:
    """Warn once that an application sends a task while it is imported, and name the line."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_PACKAGE):
        frame = frame.f_back
    importing.sent_at = f"{frame.f_code.co_filename}:{frame.f_lineno}"
    _log.warning(
        "app %s sends a task when it is imported, at %s, and so at each start of a worker; "
        "send it under if __name__ == '__main__':",
        importing.app,
        importing.sent_at,
    )
    importing.app = ""


_PACKAGE = os.path.dirname(__file__) + os.sep


def _configured() -> tuple[str, ...]:
    names = settings.spooler_names()
    if not names:
        registry.backend(None)  # raises, saying what to set
    return names


def _task_info(entry: Entry, envelope: Any) -> dict[str, Any]:
    info: dict[str, Any] = {} if envelope is None else {key: _text(value) for key, value in envelope.vars.items()}
    for part in wire.SEAL:
        info.pop(part, None)
    body = envelope.body if envelope is not None else b""
    info["spooler_task_name"] = entry.id.rpartition("/")[2]
    info.setdefault("spooler", entry.spooler)
    if entry.priority is not None:
        info["priority"] = entry.priority
    return info | {
        "body": body,
        "due": entry.due,
        "attempts": entry.attempts,
        "state": str(entry.state),
        "function": entry.task,
        "size": entry.size,
        "reason": entry.reason,
    }


def _text(value: bytes) -> str | bytes:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value
