"""``Spooler``, the API: decorated tasks, raw messages, and inspection."""

import logging
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta
from types import MethodType
from typing import Any, Optional, ParamSpec, Protocol, TypeVar, Union, Unpack, overload

from . import address, codec, importing, inspection, instances, lookup, registry, settings, uwsgi, wire
from .backends.base import Backend, Transactional, check_period
from .errors import OptionRefused, PayloadRefused
from .functions import FunctionTask, check_spooler
from .message import Entry, Envelope, Message, State
from .options import TaskKeywords, TaskOptions
from .schedule import Postpone, check_priority, to_due
from .task_id import task_id
from .unique import UniqueFor, UniqueMode, UniqueOptions, unique_message

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
    """The decorator ``task``, on the class and on each spooler."""

    def __get__(self, instance: "Spooler | None", owner: type["Spooler"]) -> _Task:
        return MethodType(_task, owner if instance is None else instance)


def _task(spooler: Any, func: Any = None, /, **options: Unpack[TaskKeywords]) -> Any:
    """Decorate a function so that a call sends a task.

    ::

        @Spooler.task                                   # or @Spooler.task(), or @my_spooler.task
        def send_mail(to): ...

        @Spooler.task(max_attempts=5, timeout=30)
        async def fetch(url): ...

    :param priority: a whole number of 0 or more; smaller runs first, None after all numbers.
    :param postpone: a timedelta from the call, or a datetime (a naive one is local time). It may be given by position.
    :param max_attempts: the number of runs after which the task is dead; 20.
    :param retry_delay: seconds, or a timedelta, before the second run; 5. Each further delay is ``retry_backoff`` (2)
        times as long.
    :param retry_jitter: the largest fraction by which a delay is randomly lengthened; 0.1.
    :param timeout: seconds, or a timedelta, that a run may take; no limit if None.
    :param serializer: ``pickle`` or ``json``.
    :param release_skipped: True if a task that returns ``None`` runs again, so that another handler can take it.
    :param no_retry_for: a type of exceptions, or several: a task that raises one is dead, whatever attempts are left.
    :param unique: ``until_start`` or ``until_done`` if a call sends nothing while another task of the same key has not
        started, or is not done.
    :param unique_key: a format string of the arguments, such as ``tenant:{tenant_id}``, or a function of the arguments
        that returns a text. None for all arguments.
    :param unique_for: seconds, a timedelta or a text like ``1h`` after which the key is free in any case.
    :raises FunctionRefused: for a function that no worker could find or call (a lambda, a local function, a method, a
        generator function, one of an interactive session), and for a name that another task already has.
    :raises OptionRefused: for an unknown option or an invalid value.
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
    """A spooler: a queue of tasks.

    :param name: the path of its directory, or its URL: ``postgresql://db/app?spooler=mail``,
        ``nats://a,b?spooler=mail``. The attribute ``name`` has no user and password.
    :param backend: a backend object, instead of the name. Its name becomes that of the spooler, and this process uses
        the object for all spoolers of this name.
    :raises OptionRefused: for an invalid URL, path or backend.

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
                raise OptionRefused(
                    f"Spooler() got both a name ({name!r}) and a backend, which has its own name; give one of them"
                )
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

        :param message: the text of the message. ``ucfg_<type id>`` or ``<type id>`` goes to the SpoolerTask subclass
            with this type id, any other text to SpoolerTask itself.
        :param spooler: a name, path, ``Spooler`` or backend; the default spooler if not given.
        :param priority: a whole number of 0 or more; smaller runs first.
        :param postpone: a timedelta, or a datetime, before which the message is not handled.
        :param payload: an object, which is pickled.
        :param connection: a connection in whose transaction to send, as for ``send_many``.
        :returns: the id of the task: in a directory, the absolute path of its file.
        :raises NoSpooler, OptionRefused, PayloadRefused: if nothing was sent.
        :raises SpoolerUnusable: if nothing was sent, unless ``sent`` has the id of the task.
        """
        raw = raw_message(message, priority=priority, postpone=postpone, payload=payload)
        return task_id(_send([raw], spooler, connection)[0])

    @classmethod
    def send_many(
        cls,
        messages: Iterable[Message],
        *,
        spooler: Union[str, os.PathLike[str], "Spooler", Backend, None] = None,
        connection: Any = None,
    ) -> list[str]:
        """Send many messages with shared syncs, and return their ids in order.

        No task is ever visible in part. Make messages with ``task.message(...)`` or :func:`unspool.raw_message`.

        :param connection: a connection of psycopg, SQLAlchemy (or a Session) or Django to the database of a PostgreSQL
            spooler. The tasks are sent in its open transaction: they are committed with it, or not sent.
        :raises NoSpooler, PayloadRefused: if nothing was sent.
        :raises SpoolerUnusable: if not all were sent. ``sent`` has the ids of the tasks that are in the queue; send
            only the others again.
        :raises OptionRefused: for a connection that the spooler cannot use.
        """
        return _send(_checked(messages), spooler, connection)

    @classmethod
    def get_spoolers(cls) -> list["Spooler"]:
        """Return the configured spoolers."""
        return [cls(name) for name in settings.spooler_names()]

    @classmethod
    def get_by_basename(cls, name: str) -> Optional["Spooler"]:
        """Return the first configured spooler with this base name; None if there is none.

        :param name: the last part of the name of a spooler, such as ``mydir`` for ``/somewhere/here/is/mydir``.
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
        """Return the process ids of the live workers of all spoolers on this machine."""
        found = {
            info.pid
            for name in settings.spooler_names()
            for info in registry.backend(name).live()
            if info.role == "worker" and not info.host
        }
        return sorted(found)

    @classmethod
    def set_period(cls, seconds: float) -> bool:
        """Set the seconds between full scans of the directories. Running workers use the new value at once.

        Tasks do not wait for a scan where the kernel reports their arrival.

        :param seconds: a number above 0.
        :raises OptionRefused: for anything else.
        """
        period = check_period(seconds)
        for name in _configured():
            registry.backend(name).switch(period=period)
        return True

    @classmethod
    def get_tasks(cls, limit: int | None = None) -> list[str]:
        """Return the ids of all waiting and running tasks.

        The list covers all spoolers and priorities, in the order in which the tasks run.

        :param limit: the maximum number for each spooler.
        """
        return [
            entry.id
            for name in settings.spooler_names()
            for entry in inspection.tasks(registry.backend(name), _WAITING, limit)
        ]

    @classmethod
    def read_task_file(cls, path: str) -> dict[str, Any]:
        """Return information about a task.

        This takes no lock and unpickles nothing.

        :param path: the id of the task, a relative or absolute path, or a part of the id that no other task has, such
            as the short id that ``unspool ls`` shows.
        :returns: uWSGI's keys (``spooler_task_name``, ``spooler``, ``priority``, ``at``, ``msg``, ``body``), and
            ``attempts``, ``state``, ``function``, ``size`` in bytes, ``due`` in unix seconds and ``reason``; ``{}`` if
            there is no such task.
        :raises OptionRefused: if ``path`` is not a string or path.
        :raises AmbiguousId: if several tasks have this part.
        """
        if not isinstance(path, str | os.PathLike):
            raise OptionRefused(f"the path of the task is {path!r}; it must be a string, as sending returns it")
        found = lookup.find_task(path := os.fspath(path), registry.candidates(path))
        task = inspection.read(found[0], found[1].id) if found else None
        return _task_info(*task) if task else {}


def raw_message(
    message: str,
    *,
    priority: int | None = None,
    postpone: Postpone = None,
    payload: Any = None,
    serializer: str = "pickle",
    unique: UniqueMode | None = None,
    unique_key: str | None = None,
    unique_for: UniqueFor | None = None,
) -> Message:
    """Return a message for ``Spooler.send_many``, with the parameters of ``Spooler.send_message_raw``.

    :param unique, unique_for: as for ``Spooler.task``.
    :param unique_key: a text; None for the message and its payload.

    :raises OptionRefused: for an invalid value.
    """
    if not isinstance(message, str):
        raise OptionRefused(f"message is {message!r}; it must be a string")
    if not message:
        raise OptionRefused("message is empty; it must say which handler it is for")
    check_priority(priority)
    options = UniqueOptions.of(unique, unique_key, unique_for)
    key = None if options is None else unique_message(options, message, payload)
    return Message(message, payload, None, priority, to_due(postpone), serializer, key)


def _checked(messages: Iterable[Any]) -> list[Message]:
    """Return the messages.

    :raises PayloadRefused: if one is not a message.
    """
    if isinstance(messages, str | bytes | Message) or not isinstance(messages, Iterable):
        raise PayloadRefused(f"messages is {messages!r:.200}; pass a list of messages, made with {_MAKE}")
    checked = list(messages)
    for at, message in enumerate(checked):
        if not isinstance(message, Message):
            raise PayloadRefused(
                f"messages[{at}] is {message!r:.200}, which is not a message; make messages with {_MAKE}"
            )
    return checked


_MAKE = "task.message(...) or unspool.raw_message(...)"


def _send(messages: Sequence[Message], spooler: Any, connection: Any = None) -> list[str]:
    uwsgi.enter()  # another module may have replaced uWSGI's handler
    if importing.app:
        _warn_of_import()
    contents = [codec.encode(message) for message in messages]
    if spooler is not None and not isinstance(spooler, Spooler):
        spooler = Spooler(check_spooler(spooler))
    if not contents:
        return []
    settings.check_sizes(contents)
    backend = registry.backend(None if spooler is None else spooler.name)
    envelopes = list(map(registry.seal(backend).close, contents))
    if any(message.unique for message in messages):
        if not backend.capabilities.unique:
            raise OptionRefused(f"unique is set, and the backend of spooler {backend.name} has no unique tasks")
        pairs = zip(envelopes, messages, strict=True)
        envelopes = [envelope._replace(unique=message.unique) for envelope, message in pairs]
        return list(map(task_id, _stored(backend, envelopes, connection)))
    return _stored(backend, envelopes, connection)


def _stored(backend: Backend, envelopes: Sequence[Envelope], connection: Any) -> list[str]:
    if connection is None:
        return backend.send(envelopes)
    if not isinstance(backend, Transactional):
        raise OptionRefused(
            f"spooler {backend.name} cannot send within a transaction; only one on PostgreSQL takes a connection"
        )
    return backend.send_within(connection, envelopes)


def _warn_of_import() -> None:
    """Warn once that an application sends a task while it is imported, with the line that does so."""
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
        registry.backend(None)  # raises an error that says what to set
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
