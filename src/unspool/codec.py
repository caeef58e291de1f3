"""Conversion between messages and their contents.

``decode`` also understands messages of ``uwsgiconf`` (``msg`` and a pickled body) and of ``uwsgidecorators``
(``ud_spool_func`` and pickled ``args`` and ``kwargs``). In turn, uwsgiconf can read messages of unspool.

The seal of a task (see ``wire``) is verified before it is decoded here.
"""

import functools
import io
import json
import pickle
from collections.abc import Callable, Mapping
from types import FunctionType
from typing import Any, NamedTuple

from . import failure
from .errors import Damaged, OptionRefused, PayloadRefused
from .message import Content, Message
from .naming import is_script, module_of
from .printable import printable
from .wire import MAX_VARS, Packed

__all__ = [
    "AS_IS",
    "BARE",
    "FCALL",
    "SERIALIZERS",
    "TYPE_PREFIX",
    "UNSUPPORTED",
    "decode",
    "decode_bare",
    "encode",
    "is_bare",
    "is_pickled",
    "task_label",
]

TYPE_PREFIX = "ucfg_"
FCALL = TYPE_PREFIX + "fcall"
BARE = "uwsgi.spool"
"""The type id of the handler for messages of a program's own ``uwsgi.spool()``."""
AS_IS = b"as-is"
"""The value of ``unspool_codec`` in such a message that unspool has sent. Its contents are not decoded."""

_PICKLE_PROTOCOL = 4  # an older Python, as inside uWSGI, may run the task
_ROOM_FOR_THE_REST = 2048  # bytes of the variables reserved for everything except the message text


class _Serializer(NamedTuple):
    dump: Callable[[Any], bytes]
    load: Callable[[bytes], Any]


class _ScriptPickler(pickle.Pickler):
    """Pickles classes and functions of the running script under the name that a worker imports, not as ``__main__``."""

    def reducer_override(self, thing: Any) -> Any:
        if isinstance(thing, type | FunctionType) and is_script(thing.__module__):
            import pkgutil  # only a script of such a package needs it

            return pkgutil.resolve_name, (f"{module_of(thing)}:{thing.__qualname__}",)
        return NotImplemented


def _pickle(value: Any) -> bytes:
    data = pickle.dumps(value, _PICKLE_PROTOCOL)
    if pickle.STACK_GLOBAL not in data:  # no class or function, and this search takes a tenth of those below
        return data
    if b"main__" not in data and b"uwsgi_file_" not in data:  # the module names of scripts, see ``is_script``
        return data
    buffer = io.BytesIO()
    _ScriptPickler(buffer, _PICKLE_PROTOCOL).dump(value)
    return buffer.getvalue()


SERIALIZERS = {
    "pickle": _Serializer(_pickle, pickle.loads),
    "json": _Serializer(lambda value: json.dumps(value, separators=(",", ":")).encode(), json.loads),
}

UNSUPPORTED = (ImportError, AttributeError, NotImplementedError)
"""The errors of decoding that mean that this program lacks something that the sender had. A deploy may add it."""


def encode(message: Message) -> Content:
    """Return the content of a message.

    :raises PayloadRefused: if the payload cannot be serialised. The error names the argument.
    :raises OptionRefused: if there is no such serialiser.
    """
    text, payload, task, priority, due, serializer, _ = message
    body: dict[str, Any] = {}
    if payload is not None:
        body["payload"] = payload
    if due is None and len(text) <= _SHORT:
        vars = _shared_variables(text, task, priority, serializer)
    else:
        vars = _variables(text, task, priority, serializer)
        if due is not None:
            vars = {**vars, "at": b"%.6f" % due}
    if "msg" not in vars:
        body["msg"] = text
    return Content(vars, _serialize(message, body) if body else b"", priority, due)


def _variables(text: str, task: str | None, priority: int | None, serializer: str) -> Mapping[str, bytes]:
    """Return the variables of a message that is not postponed; without ``msg`` if the text has no room in them."""
    vars: dict[str, bytes] = {}
    try:
        encoded = text.encode()
    except UnicodeEncodeError as error:
        raise PayloadRefused(f"the message {text[:40]!r} cannot be sent: it is not valid text") from error
    if len(encoded) < MAX_VARS - _ROOM_FOR_THE_REST:
        vars["msg"] = encoded
    if task is not None:
        vars["unspool_task"] = task.encode()
    if priority is not None:
        vars["priority"] = b"%d" % priority
    if serializer != "pickle":
        vars["unspool_codec"] = serializer.encode()
    return vars


_SHORT = 64


@functools.lru_cache(256)
def _shared_variables(text: str, task: str | None, priority: int | None, serializer: str) -> Mapping[str, bytes]:
    """Return the variables that all calls of a function have."""
    return Packed(_variables(text, task, priority, serializer))


def decode(content: Content) -> Message:
    """Return the message in a content. This unpickles, so only ``dispatch`` may call it.

    :raises Damaged: if the body is not valid output of its serialiser.
    :raises Exception: any exception that the payload's own classes raise while they are rebuilt, if the seal shows that
        the data is whole. A module, class or value may be missing only in this program, and a deploy may add it.
    """
    vars = content.vars
    if "ud_spool_func" in vars:
        return _from_uwsgidecorators(content)
    if vars.get("unspool_codec") == AS_IS:
        return decode_bare(content)
    serializer = vars["unspool_codec"].decode("utf-8", "replace") if "unspool_codec" in vars else "pickle"
    try:
        body = _deserialize(serializer, content.body, content.sealed) if content.body else {}
    except Damaged:
        if "msg" in vars or content.sealed:
            raise
        body = None  # a program's own uwsgi.spool() may put anything there
    if "msg" not in vars and not (isinstance(body, dict) and "msg" in body):
        return decode_bare(content)
    if not isinstance(body, dict):
        raise Damaged(f"the body is a {type(body).__name__}, but that of a task is a dict")
    text = vars["msg"].decode("utf-8", "replace") if "msg" in vars else str(body["msg"])
    payload = body.get("payload")
    task = vars["unspool_task"].decode("utf-8", "replace") if "unspool_task" in vars else None
    if text == FCALL:
        payload = _call(payload, task)
        task = payload["func"]
    return Message(text, payload, task, content.priority, content.due, serializer)


def is_pickled(content: Content) -> bool:
    """Return whether decoding this would unpickle anything."""
    vars = content.vars
    if "ud_spool_func" in vars:
        return "args" in vars
    return bool(content.body) and vars.get("unspool_codec", b"pickle") == b"pickle"


def is_bare(content: Content) -> bool:
    """Return whether this is a message of a program's own ``uwsgi.spool()``, as far as is visible before decoding.

    Plain text from uwsgiconf looks like a program's own variable ``msg``.
    """
    vars = content.vars
    if content.sealed:
        return vars.get("unspool_codec") == AS_IS
    return "ud_spool_func" not in vars and not vars.get("msg", b"").startswith(TYPE_PREFIX.encode())


def decode_bare(content: Content) -> Message:
    """Return the message of a program's own ``uwsgi.spool()``, whose payload is the variables and the body."""
    payload = {**_foreign(content.vars), "body": content.body}
    return Message("", payload, None, content.priority, content.due)


def task_label(vars: Mapping[str, bytes]) -> str:
    """Return the name of a task for listings and logs, from its variables alone: nothing is decoded."""
    for key in ("unspool_task", "ud_spool_func", "msg"):
        if key in vars:
            return _label(vars[key][:200])
    return "?"


@functools.lru_cache(256)
def _label(name: bytes) -> str:
    return printable(name.decode("utf-8", "replace").removeprefix(TYPE_PREFIX))


_SEQUENCES = (tuple, list)


def _call(payload: Any, task: str | None) -> dict[str, Any]:
    if isinstance(payload, dict):  # just decoded, so it may be changed in place
        func, args, kwargs = payload.get("func"), payload.get("arg"), payload.get("kwg")
        if isinstance(func, str) and isinstance(args, _SEQUENCES) and isinstance(kwargs, dict):
            payload["func"] = task or func
            payload["arg"] = tuple(args)
            return payload
    raise Damaged("a function call without a function, arguments and keyword arguments")


def _from_uwsgidecorators(content: Content) -> Message:
    vars = content.vars
    func = vars["ud_spool_func"].decode("utf-8", "replace")
    returns = vars.get("ud_spool_ret", b"").decode("ascii", "replace") or "own"
    payload: dict[str, Any] = {"func": func, "returns": returns}
    if "args" in vars:
        args, kwargs = (_deserialize("pickle", vars.get(key, b""), content.sealed) for key in ("args", "kwargs"))
    else:  # the function takes the message itself, as text where possible, with what uWSGI adds
        given = {key: _text(value) for key, value in _foreign(vars).items()}
        if content.body:
            given["body"] = _text(content.body)
        args, kwargs = (given,), {}
        payload["takes"] = "message"
    task = vars["unspool_task"].decode("utf-8", "replace") if "unspool_task" in vars else None
    payload = _call({**payload, "arg": args, "kwg": kwargs}, task)
    return Message(FCALL, payload, payload["func"], content.priority, content.due)


def _foreign(vars: Mapping[str, bytes]) -> dict[str, bytes]:
    """Return the variables that other programs know: all except unspool's."""
    return {key: value for key, value in vars.items() if not key.startswith("unspool_")}


def _text(value: bytes) -> str | bytes:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value


def _serialize(message: Message, body: dict[str, Any]) -> bytes:
    known = SERIALIZERS.get(message.serializer)
    if known is None:
        raise OptionRefused(f"serializer is {message.serializer!r}; it must be one of {', '.join(SERIALIZERS)}")
    try:
        return known.dump(body)
    except Exception as error:
        # A serialiser runs the caller's __reduce__ and the like, so it may raise anything.
        raise PayloadRefused(
            f"{_culprit(message, known.dump)} cannot be sent with {message.serializer}: {failure.text(error)}. "
            + _ADVICE[message.serializer]
        ) from error


_ADVICE = {
    "pickle": "Pass what another process can rebuild: a name, a path, an id, plain data.",
    "json": "Pass what JSON has: text, numbers, booleans, None, lists and dictionaries; for a set a list, for a "
    "datetime its isoformat(). Or use serializer='pickle'.",
}


def _culprit(message: Message, dump: Callable[[Any], bytes]) -> str:
    if message.message == FCALL:
        arguments = [(f"argument {at}", value) for at, value in enumerate(message.payload["arg"], 1)]
        arguments += [(f"argument {name!r}", value) for name, value in message.payload["kwg"].items()]
        for name, value in arguments:
            try:
                dump(value)
            except Exception:  # noqa: BLE001  the caller's own pickling code; which error does not matter here
                return f"{name} of {message.task} (a {type(value).__name__})"
    return f"the payload (a {type(message.payload).__name__})"


def _deserialize(serializer: str, data: bytes, sealed: bool) -> Any:
    known = SERIALIZERS.get(serializer)
    if known is None:
        raise Damaged(f"written by an unknown serialiser: {serializer[:40]!r}")
    try:
        if serializer == "pickle" and data[:1] == b"\x80" and data[1] > pickle.HIGHEST_PROTOCOL:
            raise NotImplementedError(
                f"pickle protocol {data[1]} of a newer Python; this one reads up to {pickle.HIGHEST_PROTOCOL}"
            )
        return known.load(data)
    except UNSUPPORTED:
        raise
    except Exception as error:
        if sealed and not isinstance(error, pickle.UnpicklingError | EOFError | json.JSONDecodeError):
            raise  # the data is whole, but this program or a dependency cannot rebuild it now
        raise Damaged(f"the {serializer} body cannot be read: {failure.reason(error)}") from error
