"""Conversion of messages to envelopes and back: messages of uwsgiconf and uwsgidecorators are understood, and damage is
detected.
"""

import inspect
import json
import pickle
import random
import sys
from types import ModuleType
from typing import Any

import pytest

from unspool import codec, wire
from unspool.errors import Damaged, OptionRefused, PayloadRefused
from unspool.functions import call_message
from unspool.message import Content, Message


def travelled(message: Message) -> Message:
    """Return the message after encoding, writing, reading and decoding."""
    envelope = codec.encode(message)
    data = wire.dump(envelope.vars, envelope.body, None)
    return codec.decode(wire.load(data, None, priority=envelope.priority, due=envelope.due))


def foreign(vars: dict[str, bytes], body: bytes = b"") -> Content:
    """Return an envelope that another program wrote."""
    return Content(vars, body, None, None, False)


class Unpicklable:
    """An object whose pickling raises an unusual exception."""

    def __reduce__(self) -> Any:
        raise RuntimeError("not this one")


@pytest.mark.parametrize(
    "message",
    [
        Message("hello"),
        Message("", {"a": 1}),
        Message("ucfg_mail", b"\0\xff", priority=0),
        Message("ключ \N{SNOWMAN}", [1, (2, {3})], due=1_900_000_000.123456),
        Message("data", {"k": [1, None, "x"]}, serializer="json"),
    ],
)
def test_a_message_travels(message: Message) -> None:
    """Text, payload, priority, due time and serialiser arrive unchanged."""
    assert travelled(message) == message


@pytest.mark.parametrize("serializer", ["pickle", "json"])
def test_a_function_call_travels(serializer: str) -> None:
    """With both serialisers, the function, its arguments as a tuple and its keyword arguments arrive."""
    sent = call_message("app.mail:Box.send", ("ann", 2), {"copy": None}, 7, serializer=serializer)
    found = travelled(sent)
    assert (found.message, found.task, found.priority) == ("ucfg_fcall", "app.mail:Box.send", 7)
    assert found.payload["func"] == "app.mail:Box.send"
    assert (found.payload["arg"], found.payload["kwg"]) == (("ann", 2), {"copy": None})


@pytest.mark.parametrize("size", [0, 63_486, 63_487, 63_488, 65_535, 65_536, 3_000_000])
@pytest.mark.parametrize("letter", ["x", "\N{SNOWMAN}"])
def test_a_text_of_any_size_travels(size: int, letter: str) -> None:
    """A text that does not fit into the variables goes into the body, with and without a payload."""
    text = (letter * size)[:size]
    for payload in (None, {"k": "v"}):
        assert travelled(Message(text, payload)) == Message(text, payload)


def test_uwsgiconf_can_read_what_is_sent() -> None:
    """Its worker takes ``msg``, unpickles the body, and looks up the bare function name among its own."""
    envelope = codec.encode(call_message("app.mail:send", ("ann",), {}))
    assert envelope.vars["msg"] == b"ucfg_fcall"
    payload = pickle.loads(envelope.body)["payload"]
    assert (payload["func"], payload["arg"], payload["kwg"]) == ("send", ("ann",), {})


def test_uwsgis_variables() -> None:
    """``priority`` and ``at`` are uWSGI's own keys, as decimal text. Options that are not given have no key."""
    envelope = codec.encode(Message("m", priority=12, due=1_900_000_000.5))
    assert envelope.vars == {"msg": b"m", "priority": b"12", "at": b"1900000000.500000"}
    assert codec.encode(Message("m")).vars == {"msg": b"m"}


def test_json_is_json() -> None:
    """A JSON body is plain JSON, and a variable names the serialiser."""
    envelope = codec.encode(Message("m", {"a": 1}, serializer="json"))
    assert json.loads(envelope.body) == {"payload": {"a": 1}}
    assert envelope.vars["unspool_codec"] == b"json"


def test_a_function_call_of_uwsgiconf() -> None:
    """``ucfg_fcall`` with a pickled body, lists for arguments, and a bare function name."""
    payload = {"spooler": None, "priority": None, "postpone": None, "func": "send", "arg": ["ann"], "kwg": {"n": 1}}
    found = codec.decode(foreign({"msg": b"ucfg_fcall"}, pickle.dumps({"payload": payload})))
    assert found.task == "send"
    assert (found.payload["func"], found.payload["arg"], found.payload["kwg"]) == ("send", ("ann",), {"n": 1})


def test_a_raw_message_of_uwsgiconf() -> None:
    """With a payload, and without any body."""
    found = codec.decode(foreign({"msg": b"ucfg_mail"}, pickle.dumps({"payload": [1]})))
    assert (found.message, found.payload, found.task) == ("ucfg_mail", [1], None)
    assert codec.decode(foreign({"msg": b"hello"})).payload is None


def test_uwsgidecorators_with_pass_arguments() -> None:
    """Arguments and keyword arguments are two pickled variables."""
    vars = {
        "ud_spool_func": b"resize",
        "ud_spool_ret": b"-2",
        "args": pickle.dumps(("a.png", 2)),
        "kwargs": pickle.dumps({"deep": True}),
    }
    found = codec.decode(foreign(vars))
    assert (found.message, found.task) == ("ucfg_fcall", "resize")
    assert found.payload == {"func": "resize", "arg": ("a.png", 2), "kwg": {"deep": True}, "returns": "-2"}


def test_uwsgidecorators_without_pass_arguments() -> None:
    """The function gets the message itself: text where possible, otherwise bytes, and the body."""
    vars = {"ud_spool_func": b"resize", "ud_spool_ret": b"-2", "path": b"a.png", "raw": b"\xff"}
    found = codec.decode(foreign(vars, b"BODY"))
    given = {"ud_spool_func": "resize", "ud_spool_ret": "-2", "path": "a.png", "raw": b"\xff", "body": "BODY"}
    assert found.payload == {"func": "resize", "arg": (given,), "kwg": {}, "returns": "-2", "takes": "message"}


def test_spoolraw_returns_its_own() -> None:
    """``@spoolraw`` determines no verdict: the function returns one."""
    assert codec.decode(foreign({"ud_spool_func": b"resize"})).payload["returns"] == "own"


@pytest.mark.parametrize("vars", [{"args": b"garbage"}, {"args": pickle.dumps(())}, {"args": b"", "kwargs": b""}])
def test_damaged_arguments_of_uwsgidecorators(vars: dict[str, bytes]) -> None:
    """Arguments that cannot be unpickled, or are missing, are damage."""
    with pytest.raises(Damaged):
        codec.decode(foreign({"ud_spool_func": b"resize"} | vars))


def test_a_programs_own_message() -> None:
    """A message of a program's own ``uwsgi.spool()`` has no text. Its variables and body are its payload."""
    for body in (pickle.dumps([1]), b"any bytes", b""):
        found = codec.decode(foreign({"k": b"v"}, body))
        assert (found.message, found.payload) == ("", {"k": b"v", "body": body})


@pytest.mark.parametrize(
    ("args", "kwargs", "named"),
    [
        ((1, lambda: None), {}, "argument 2 of app:f (a function)"),
        ((), {"good": 1, "bad": lambda: None}, "argument 'bad' of app:f (a function)"),
        ((Unpicklable(),), {}, "argument 1 of app:f (a Unpicklable)"),
        ((open,), {"bad": inspect.currentframe()}, "argument 'bad' of app:f (a frame)"),
    ],
)
def test_an_unpicklable_argument_is_named(args: tuple[Any, ...], kwargs: dict[str, Any], named: str) -> None:
    """The error names the argument, the function and the type, whatever exception pickling raises."""
    with pytest.raises(PayloadRefused) as caught:
        codec.encode(call_message("app:f", args, kwargs))
    assert str(caught.value).startswith(named)
    assert caught.value.__cause__ is not None


def test_an_argument_that_json_does_not_know_is_named() -> None:
    """JSON refuses some values that pickle accepts."""
    with pytest.raises(PayloadRefused, match=r"argument 'when' of app:f \(a set\) cannot be sent with json"):
        codec.encode(call_message("app:f", (1,), {"when": {1}}, serializer="json"))


def test_an_unpicklable_payload() -> None:
    """A raw message has no arguments, so the error has the type of its payload."""
    with pytest.raises(PayloadRefused, match=r"the payload \(a generator\)"):
        codec.encode(Message("m", (n for n in ())))


def test_an_unknown_serializer() -> None:
    """It is refused when sent, and damage when read. The error names it."""
    with pytest.raises(OptionRefused, match="'yaml'"):
        codec.encode(Message("m", 1, serializer="yaml"))
    with pytest.raises(Damaged, match="'yaml'"):
        codec.decode(foreign({"msg": b"m", "unspool_codec": b"yaml"}, b"a: 1"))


def test_a_class_that_is_not_there_is_not_damage(monkeypatch: pytest.MonkeyPatch) -> None:
    """A deploy may add the module or the class, so this is another error, and the task is retried."""
    module = ModuleType("module_of_tomorrow")
    thing = type("Thing", (), {"__module__": module.__name__})
    module.Thing = thing  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    envelope = codec.encode(Message("m", thing()))
    assert type(codec.decode(envelope).payload) is thing

    del module.Thing  # type: ignore[attr-defined]
    with pytest.raises(codec.UNSUPPORTED, match="Thing") as caught:
        codec.decode(envelope)
    assert isinstance(caught.value, AttributeError)
    assert not isinstance(caught.value, Damaged)

    monkeypatch.delitem(sys.modules, module.__name__)
    with pytest.raises(codec.UNSUPPORTED, match="module_of_tomorrow") as caught:
        codec.decode(envelope)
    assert isinstance(caught.value, ImportError)


class Rebuilt:
    """An object that raises the given exception while it is rebuilt."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def __reduce__(self) -> Any:
        return _rebuild, (self.error,)


def _rebuild(error: Exception) -> None:
    raise error


@pytest.mark.parametrize(
    "error",
    [ValueError("3 is not a valid Color"), TypeError("takes 3 positional arguments"), KeyError("x"), MemoryError()],
    ids=lambda error: type(error).__name__,
)
def test_an_error_while_an_argument_is_rebuilt_is_not_damage(error: Exception) -> None:
    """The checksum matches, so the program lacks something. Without a checksum, nothing shows that the data is
    complete.
    """
    envelope = codec.encode(Message("m", Rebuilt(error)))
    with pytest.raises(type(error)):
        codec.decode(envelope)
    with pytest.raises(Damaged, match=type(error).__name__):
        codec.decode(envelope._replace(sealed=False))


@pytest.mark.parametrize(
    ("vars", "body"),
    [
        ({"msg": b"m"}, b"garbage"),
        ({"msg": b"m"}, pickle.dumps([1])),
        ({"msg": b"m"}, pickle.dumps({"payload": list(range(100))})[:50]),
        ({"msg": b"m", "unspool_codec": b"json"}, b'{"payload": '),
        ({"msg": b"m", "unspool_codec": b"json"}, b"\xff"),
        ({"msg": b"ucfg_fcall"}, b""),
        ({"msg": b"ucfg_fcall"}, pickle.dumps({"payload": {"func": "f"}})),
        ({"msg": b"ucfg_fcall"}, pickle.dumps({"payload": {"func": 1, "arg": (), "kwg": {}}})),
        ({"msg": b"ucfg_fcall"}, pickle.dumps({"payload": {"func": "f", "arg": "abc", "kwg": {}}})),
    ],
)
def test_a_damaged_body(vars: dict[str, bytes], body: bytes) -> None:
    """A body that its serialiser did not write, or with an unexpected value, is damage."""
    with pytest.raises(Damaged):
        codec.decode(foreign(vars, body))


def test_garbage_for_a_body() -> None:
    """Random bytes in place of a pickle or JSON raise only the errors that a worker expects."""
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")
    generator = random.Random(seed)
    for _ in range(3_000):
        vars = {"msg": b"m", "unspool_codec": generator.choice([b"pickle", b"json"])}
        with pytest.raises((Damaged, *codec.UNSUPPORTED)):
            codec.decode(foreign(vars, b"\0" + generator.randbytes(generator.randrange(40))))


@pytest.mark.parametrize(
    ("vars", "label"),
    [
        ({"msg": b"ucfg_fcall", "unspool_task": b"app:f"}, "app:f"),
        ({"ud_spool_func": b"f", "args": b"garbage"}, "f"),
        ({"msg": b"ucfg_mail"}, "mail"),
        ({"msg": b"m" * 1000}, "m" * 200),
        ({"msg": b"\xff"}, "\N{REPLACEMENT CHARACTER}"),
        ({}, "?"),
    ],
)
def test_the_label_needs_no_decoding(vars: dict[str, bytes], label: str) -> None:
    """Listings name a task from its variables alone."""
    assert codec.task_label(vars) == label
