"""The contents of a pickle as text, without unpickling it: nothing is imported, called or built.

The opcodes are read one by one, and plain data is built on a separate stack. An object is shown as the name of its
class and its state. Opcodes, depth and length are limited, so a hostile pickle costs no more than a large one.
"""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from .message import Content
from .printable import printable

__all__ = ["call_of", "outline"]

_MOST_BYTES = 16 << 20
_MOST_OPCODES = 100_000
_MOST_TEXT = 2_000  # characters of an outline
_MOST_LEAF = 100  # characters of one string in it
_MOST_ITEMS = 50  # arguments of an object
_MOST_BITS = 512  # bits of a number: larger ones take long to convert to decimal
_DEEPEST = 12

_FORGOTTEN = "…"
_FORMER = {"__builtin__": "builtins", "copy_reg": "copyreg"}  # modules as protocols below 3 name them


class _Node:
    """A value that contains others: ``items`` between ``start`` and ``end``."""

    __slots__ = ("end", "items", "start")

    def __init__(self, start: str, items: list[Any], end: str) -> None:
        self.start, self.items, self.end = start, items, end


class _Map(_Node):
    """A dict. Its items are pairs."""


class _Tuple(_Node):
    """A tuple."""


class _Leaf(str):
    """A plain value as text.

    :param value: the string itself, if the value is a string.
    """

    __slots__ = ("value",)
    value: str | None

    def __new__(cls, shown: str, value: str | None = None) -> "_Leaf":
        made = super().__new__(cls, shown)
        made.value = value
        return made


class _Object(_Node):
    """An object made by a call or a class. Its items are arguments, or keys and values."""

    __slots__ = ("kind",)

    def __init__(self, kind: Any, items: list[Any]) -> None:
        super().__init__("(", items, ")")
        self.kind = kind
        if len(items) > _MOST_ITEMS:
            del items[_MOST_ITEMS:]
            items.append(_Leaf(_FORGOTTEN))


_MARK = _Leaf("mark")


def outline(data: bytes) -> str:
    """Return the contents of a pickle in one printable line: plain data as Python writes it, objects as
    ``app.Order(id=3)``.

    If the contents cannot be shown, return the reason in angle brackets.
    """
    return _text(_root(data))


def call_of(content: Content, label: str) -> str | None:
    """Return the call that a pickled message stands for, such as ``resize('a.png', width=800)``.

    Return None if nothing in it is pickled. Messages of uwsgiconf and uwsgidecorators are supported.

    :param label: the name of the function or message in the result.
    """
    vars, name = content.vars, label.rpartition(":")[2]
    if "ud_spool_func" in vars:
        if "args" not in vars:
            return None
        return _text(_call(name, _root(vars["args"]), _root(vars.get("kwargs", b""))))
    if not content.body or vars.get("unspool_codec", b"pickle") != b"pickle":
        return None
    body = _root(content.body)
    payload = _get(body, "payload") if isinstance(body, _Map) else None
    if payload is None:
        return _text(body)
    args, kwargs = _get(payload, "arg"), _get(payload, "kwg")
    if args is None or kwargs is None:
        return _text(_Object(_Leaf(name), [payload]))
    return _text(_call(name, args, kwargs))


def _call(name: str, args: Any, kwargs: Any) -> _Object:
    items = _first(args) if isinstance(args, _Node) else [args]
    return _Object(_Leaf(name), items + _named(kwargs))


def _first(args: _Node) -> list[Any]:
    """Return the first items, and one more to show that there are others.

    Repeated copies of all items could take forever.
    """
    return args.items[: _MOST_ITEMS + 1]


def _named(state: Any) -> list[Any]:
    """Return the items of a dict as named arguments if its keys are names; otherwise the value itself."""
    if not isinstance(state, _Map):
        return [] if state == "None" else [state]
    items = _first(state)
    keys = [key.value if isinstance(key, _Leaf) else None for key, _ in items]
    if all(key is not None and key.isidentifier() for key in keys):
        return [(_Leaf(f"{key}="), value) for key, (_, value) in zip(keys, items, strict=True)]
    return [state] if items else []


def _get(node: Any, name: str) -> Any:
    if isinstance(node, _Map):
        for key, value in node.items:
            if isinstance(key, _Leaf) and key.value == name:
                return value
    return None


def _root(data: bytes) -> Any:
    if len(data) > _MOST_BYTES:
        return _Leaf(f"<{len(data):,} bytes of pickle, too many to be shown>")
    import warnings

    try:
        with warnings.catch_warnings(action="ignore"):  # about an unknown escape in a string
            return _Machine().run(data)
    except ValueError:
        return _Leaf("<no pickle>")


class _Machine:
    """The stack and the memo of a pickle that is being read."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def run(self, data: bytes) -> Any:
        """Return the value at the end.

        :raises ValueError: if the data is not a pickle.
        """
        import pickletools  # takes some milliseconds, which only ``unspool show`` needs

        for number, (opcode, argument, _) in enumerate(pickletools.genops(data)):
            if number == _MOST_OPCODES:
                return _Leaf(f"<a pickle of more than {_MOST_OPCODES:,} parts, too many to be shown>")
            if opcode.name == "STOP":
                return self.pop()
            self.step(opcode.name, argument)
        raise ValueError("it does not end")

    def step(self, name: str, argument: Any) -> None:
        """Carry out an opcode.

        :raises ValueError: if the stack does not allow it.
        """
        if (make := _CONSTANTS.get(name)) is not None:
            self.stack.append(make())
        elif (change := _CHANGES.get(name)) is not None:
            change(self)
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            if argument not in self.memo:
                raise ValueError("no such memo")
            self.stack.append(self.memo[argument])
        elif name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
            self.memo[len(self.memo) if argument is None else argument] = self.top()
        elif name in ("GLOBAL", "INST"):
            found = _Leaf(_global(*argument.split(" ", 1)) if " " in argument else argument[:_MOST_LEAF])
            self.stack.append(_Object(found, self.since_mark()) if name == "INST" else found)
        elif name in ("EXT1", "EXT2", "EXT4"):
            self.stack.append(_Leaf(f"<extension {argument}>"))
        elif name == "PERSID":
            self.stack.append(_Object(_Leaf("<persistent>"), [_leaf(argument)]))
        elif name not in ("PROTO", "FRAME", "READONLY_BUFFER"):
            self.stack.append(_leaf(argument))

    def top(self) -> Any:
        if not self.stack or self.stack[-1] is _MARK:
            raise ValueError("the stack is empty")
        return self.stack[-1]

    def pop(self) -> Any:
        found = self.top()
        self.stack.pop()
        return found

    def pops(self, count: int) -> list[Any]:
        return [self.pop() for _ in range(count)][::-1]

    def since_mark(self) -> list[Any]:
        found: list[Any] = []
        while self.stack:
            if (one := self.stack.pop()) is _MARK:
                return found[::-1]
            found.append(one)
        raise ValueError("there is no mark")

    def extend(self, items: Sequence[Any]) -> None:
        """Add to the list, set or similar object at the top."""
        if isinstance(found := self.top(), _Map):
            raise ValueError("a dict has only keys and values")
        if isinstance(found, _Node):
            found.items.extend(items)

    def set(self, items: Sequence[Any]) -> None:
        """Add keys and values to the dict, or an object that behaves like one, at the top."""
        if isinstance(found := self.top(), _Node):
            found.items.extend(zip(items[::2], items[1::2], strict=False))

    def build(self) -> None:
        """Set the state of an object."""
        state = self.pop()
        if isinstance(found := self.top(), _Object) and len(found.items) <= _MOST_ITEMS:
            slots = isinstance(state, _Tuple) and len(state.items) == 2
            for part in state.items if slots else [state]:
                found.items.extend(_named(part)[:_MOST_ITEMS])

    def reduce(self) -> None:
        func, args = self.pops(2)
        items = _first(args) if isinstance(args, _Tuple) else [args]
        if func in ("copyreg._reconstructor", "copyreg.__newobj__") and items:  # a pickled instance of a plain class
            func, items = items[0], items[1:] if func == "copyreg.__newobj__" else []
        self.stack.append(_Object(func, items))

    def new_object(self, count: int) -> None:
        kind, args, *more = self.pops(count)
        items = _first(args) if isinstance(args, _Tuple) else [args]
        self.stack.append(_Object(kind, items + [item for one in more for item in _named(one)]))

    def call_marked(self) -> None:
        kind, *items = self.since_mark() or [_Leaf("?")]
        self.stack.append(_Object(kind, items))

    def push_global(self) -> None:
        module, name = (one.value if isinstance(one, _Leaf) else None for one in self.pops(2))
        self.stack.append(_Leaf(_global(module or "?", name or "?")))


def _global(module: str, name: str) -> str:
    module = _FORMER.get(module, module)
    return (name if module == "builtins" else f"{module}.{name}")[:_MOST_LEAF]


def _leaf(value: Any) -> _Leaf:
    """Return a plain value as text."""
    text = None
    if isinstance(value, int) and value.bit_length() > _MOST_BITS:
        shown = f"<an int of {value.bit_length():,} bits>"
    elif isinstance(value, str | bytes | bytearray):
        shown = repr(value[:_MOST_LEAF])
        if len(value) > _MOST_LEAF:
            closed = ")" if isinstance(value, bytearray) else ""
            shown = f"{shown[: -1 - len(closed)]}{_FORGOTTEN}{shown[-1 - len(closed) :]}"
        text = value[:_MOST_LEAF] if isinstance(value, str) else None
    else:
        shown = repr(value)
    return _Leaf(shown, text)


_CONSTANTS: Mapping[str, Callable[[], Any]] = {
    "MARK": lambda: _MARK,
    "NONE": lambda: _leaf(None),
    "NEWTRUE": lambda: _leaf(True),
    "NEWFALSE": lambda: _leaf(False),
    "EMPTY_LIST": lambda: _Node("[", [], "]"),
    "EMPTY_TUPLE": lambda: _Tuple("(", [], ")"),
    "EMPTY_DICT": lambda: _Map("{", [], "}"),
    "EMPTY_SET": lambda: _Node("{", [], "}"),
    "NEXT_BUFFER": lambda: _Leaf("<buffer>"),
}
_CHANGES: Mapping[str, Callable[[_Machine], object]] = {
    "POP": lambda on: on.stack.pop() if on.stack else on.top(),
    "POP_MARK": _Machine.since_mark,
    "DUP": lambda on: on.stack.append(on.top()),
    "LIST": lambda on: on.stack.append(_Node("[", on.since_mark(), "]")),
    "TUPLE": lambda on: on.stack.append(_Tuple("(", on.since_mark(), ")")),
    "TUPLE1": lambda on: on.stack.append(_Tuple("(", on.pops(1), ")")),
    "TUPLE2": lambda on: on.stack.append(_Tuple("(", on.pops(2), ")")),
    "TUPLE3": lambda on: on.stack.append(_Tuple("(", on.pops(3), ")")),
    "DICT": lambda on: on.stack.append(_Map("{", [*zip(*[iter(on.since_mark())] * 2, strict=False)], "}")),
    "FROZENSET": lambda on: on.stack.append(_Node("frozenset({", on.since_mark(), "})")),
    "APPEND": lambda on: on.extend(on.pops(1)),
    "APPENDS": lambda on: on.extend(on.since_mark()),
    "ADDITEMS": lambda on: on.extend(on.since_mark()),
    "SETITEM": lambda on: on.set(on.pops(2)),
    "SETITEMS": lambda on: on.set(on.since_mark()),
    "BUILD": _Machine.build,
    "REDUCE": _Machine.reduce,
    "NEWOBJ": lambda on: on.new_object(2),
    "NEWOBJ_EX": lambda on: on.new_object(3),
    "OBJ": _Machine.call_marked,
    "STACK_GLOBAL": _Machine.push_global,
    "BINPERSID": lambda on: on.stack.append(_Object(_Leaf("<persistent>"), on.pops(1))),
}


class _Full(Exception):
    """There is no room for more text."""


def _text(node: Any) -> str:
    """Return the text of a value, shortened if it is too long."""
    parts: list[str] = []
    left = _MOST_TEXT

    def write(text: str) -> None:
        nonlocal left
        if (left := left - len(text)) < 0:
            parts.append(_FORGOTTEN)
            raise _Full
        parts.append(text)

    def show(node: Any, depth: int) -> None:
        if isinstance(node, _Leaf):
            write(node)
        elif depth > _DEEPEST:
            write(_FORGOTTEN)
        elif isinstance(node, tuple):
            key, value = node
            show(key, depth)
            write("" if isinstance(key, _Leaf) and key.endswith("=") else ": ")
            show(value, depth)
        else:
            if isinstance(node, _Object):
                show(node.kind, depth + 1)
            if node.start == "{" and not node.items and not isinstance(node, _Map):
                write("set()")
                return
            write(node.start)
            for number, item in enumerate(node.items):
                if number:
                    write(", ")
                show(item, depth + 1)
            write("," * (isinstance(node, _Tuple) and len(node.items) == 1) + node.end)

    with contextlib.suppress(_Full):
        show(node, 0)
    return printable("".join(parts))
