"""The contents of a pickle as text, without unpickling it."""

import collections
import datetime
import decimal
import io
import os
import pickle
import pickletools
import random
import time
from typing import Any

import pytest

from unspool.codec import encode, task_label
from unspool.functions import call_message
from unspool.message import Content
from unspool.outline import call_of, outline
from unspool.spooler import raw_message

LONGEST = 2001  # characters of an outline of printable text


class Order:
    """A class with its own state."""

    def __init__(self, **state: Any) -> None:
        vars(self).update(state)


class Slotted:
    """A class whose state is in slots."""

    __slots__ = ("number",)


class Bomb:
    """A class whose pickle would create a directory."""

    def __reduce__(self) -> Any:
        return os.mkdir, ("/nowhere",)


def _call(*args: Any, **kwargs: Any) -> str | None:
    envelope = encode(call_message("shop.images:resize", args, kwargs, None, None, "pickle"))
    return call_of(envelope, task_label(envelope.vars))


def test_a_call() -> None:
    """Arguments are shown as they are written."""
    assert _call("a.png", width=800) == "resize('a.png', width=800)"
    assert _call() == "resize()"
    assert _call((1,), [2.5, None, True], {"k": b"v"}, {3}) == "resize((1,), [2.5, None, True], {'k': b'v'}, {3})"


def test_other_messages() -> None:
    """The outline of a message is its payload; of calls of uwsgiconf and uwsgidecorators the call; JSON has none."""
    envelope = encode(raw_message("cleanup", payload={"days": 30}))
    assert call_of(envelope, "cleanup") == "cleanup({'days': 30})"
    assert call_of(encode(raw_message("cleanup")), "cleanup") is None
    assert call_of(encode(raw_message("cleanup", payload=1, serializer="json")), "cleanup") is None
    body = {"msg": "ucfg_fcall", "payload": {"func": "add", "arg": (1,), "kwg": {"b": 2}}}
    theirs = Content({}, pickle.dumps(body), None, None, False)
    assert call_of(theirs, "add") == "add(1, b=2)"
    vars = {"ud_spool_func": b"f", "args": pickle.dumps(("x",)), "kwargs": pickle.dumps({"y": 1})}
    assert call_of(Content(vars, b"", None, None, False), "f") == "f('x', y=1)"
    assert call_of(Content({"ud_spool_func": b"f"}, b"", None, None, False), "f") is None
    assert call_of(Content({"k": b"v"}, b"plain bytes", None, None, False), "?") == "<no pickle>"


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_objects(protocol: int) -> None:
    """An object is shown by the name of its class, with its state as named arguments."""
    name = f"{__name__}.Order"
    assert outline(pickle.dumps(Order(id=3, tags=["a"]), protocol)) == f"{name}(id=3, tags=['a'])"
    assert outline(pickle.dumps([Order(), Order], protocol)) == f"[{name}(), {name}]"
    assert outline(pickle.dumps(decimal.Decimal("1.5"), protocol)) == "decimal.Decimal('1.5')"
    assert outline(pickle.dumps(datetime.timedelta(1), protocol)) == "datetime.timedelta(1, 0, 0)"
    ordered = outline(pickle.dumps(collections.OrderedDict(a=1), protocol))
    assert ordered.startswith("collections.OrderedDict(")
    assert "'a'" in ordered
    assert outline(pickle.dumps(Bomb(), protocol)) == "posix.mkdir('/nowhere')"
    if protocol >= 2:
        slotted = Slotted()
        slotted.number = 7
        assert outline(pickle.dumps(slotted, protocol)) == f"{__name__}.Slotted(number=7)"


def test_long_texts_and_numbers_are_cut() -> None:
    """Each part is limited, and the whole."""
    assert outline(pickle.dumps("x" * 5000)) == f"'{'x' * 100}…'"
    assert outline(pickle.dumps(bytearray(5000))) == "bytearray(b'" + "\\x00" * 100 + "…')"
    assert outline(pickle.dumps(1 << 1_000_000)) == "<an int of 1,000,001 bits>"
    many = outline(pickle.dumps(list(range(10_000))))
    assert many.startswith("[0, 1, 2, ")
    assert many.endswith("…")
    assert len(many) <= LONGEST
    assert "too many to be shown" in outline(pickle.dumps(list(range(300_000))))
    assert "too many to be shown" in outline(pickle.dumps(b"x" * (17 << 20)))


def test_what_a_terminal_would_obey_is_escaped() -> None:
    """This applies to texts, names of classes and persistent ids."""
    assert outline(pickle.dumps("\x1b[31m\u202e")) == "'\\x1b[31m\\u202e'"
    assert "\x1b" not in outline(b"c\x1bmod\nna\x1bme\n.")
    assert outline(b"Pa\x1b\n.").isprintable()


def _hostile() -> dict[str, bytes]:
    laughs = b"\x80\x04]q\x00K\x01a" + b"".join(b"](%be" % (b"h%c" % at * 30) + b"q%c" % (at + 1) for at in range(200))
    tuple_of_many = b"(" + b"K\x01" * 30_000 + b"tq\x01"
    state_of_many = b"}(" + b"".join(b"X\x04\x00\x00\x00%04dK\x01" % at for at in range(9_999)) + b"uq\x01"
    return {
        "laughs": laughs + b".",
        "itself": b"]q\x00h\x00a.",
        "a dict in itself": b"}q\x00X\x01\x00\x00\x00ah\x00s.",
        "deep": b"(" * 49_000 + b"t" * 49_000 + b".",
        "deep lists": b"]" * 49_000 + b"a" * 48_999 + b".",
        "an object of an object": b"cm\nn\n" + b")R" * 49_000 + b".",
        "one tuple often": tuple_of_many + b"0cm\nn\n" + b"h\x01R" * 30_000 + b".",
        "one state often": state_of_many + b"0cm\nn\n)R" + b"h\x01b" * 30_000 + b".",
        "one new object often": tuple_of_many + b"0" + b"cm\nn\nh\x01\x81q\x020" * 12_000 + b"h\x02.",
        "no stack": b"0.",
        "no mark": b"t.",
        "no memo": b"h\x07.",
        "a promised length": b"\x8e" + (1 << 60).to_bytes(8, "little") + b".",
        "digits": b"L" + b"9" * 1_000_000 + b"L\n.",
        "a long int": b"\x8b" + (8_000_000).to_bytes(4, "little") + b"\x7f" * 8_000_000 + b".",
        "a memo far away": b"K\x01r\xff\xff\xff\xff.",
        "a mark as a value": b"(0(.",
        "empty": b"",
        "names of nothing": b"c\n\n" * 30_000 + b".",
        "a dict that is appended to": b"}q\x00K\x01a(K\x01K\x02eh\x00.",
    }


@pytest.mark.parametrize("which", _hostile())
def test_hostile_pickles(which: str) -> None:
    """Each has an outline of limited length, within a moment."""
    data, started = _hostile()[which], time.process_time()
    text = outline(data)
    assert time.process_time() - started < 5
    assert len(text) <= LONGEST
    assert text.isprintable()


def _value(chance: random.Random, depth: int = 0) -> Any:
    leaves: list[Any] = [
        None, True, False, chance.randint(-(1 << 70), 1 << 70), chance.randint(-300, 300), chance.uniform(-1e9, 1e9),
        "".join(chance.choice("ab'\"\\\n\u00fc\u6f22") for _ in range(chance.randint(0, 8))), chance.randbytes(4),
    ]  # fmt: skip
    if depth > 3 or chance.random() < 0.4:
        return chance.choice(leaves)
    items = [_value(chance, depth + 1) for _ in range(chance.randint(0, 4))]
    return chance.choice(
        [
            items,
            tuple(items),
            dict(zip(map(str, range(4)), items, strict=False)),
            dict.fromkeys(leaves, 1),
            set(leaves[:3]),
            frozenset(leaves),
            [*items, items],
        ]
    )


def test_random_values() -> None:
    """The outline of plain data is the expression that creates it, in each protocol, and also for optimised pickles."""
    seed = random.randrange(1 << 32)
    print("seed", seed)
    chance = random.Random(seed)
    import _codecs

    for _ in range(400):
        value, protocol = _value(chance), chance.randint(0, pickle.HIGHEST_PROTOCOL)
        data = pickle.dumps(value, protocol)
        for shown in (outline(data), outline(pickletools.optimize(data))):
            if len(shown) < 1_900:
                assert eval(shown, {"_codecs": _codecs}) == value, shown  # noqa: S307  of our own values


def test_random_bytes() -> None:
    """For any bytes, there is a printable outline of limited length, and no error."""
    seed = random.randrange(1 << 32)
    print("seed", seed)
    chance = random.Random(seed)
    codes = [opcode.code.encode("latin-1") for opcode in pickletools.opcodes]
    for _ in range(3_000):
        buffer = io.BytesIO()
        pickle.Pickler(buffer, chance.randint(0, 5)).dump([_value(chance), Order(id=1)])
        data = bytearray(buffer.getvalue())
        for _ in range(chance.randint(1, 6)):
            at = chance.randrange(len(data) + 1)
            data[at : at + chance.randint(0, 2)] = chance.choice([chance.choice(codes), chance.randbytes(2)])
        text = outline(bytes(data))
        assert text.isprintable()
        assert len(text) <= 10 * LONGEST
