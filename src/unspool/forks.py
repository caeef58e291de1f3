"""What must happen around a fork of this process. No other module registers functions with Python or compares process
ids.

A child has copies of its parent's objects and none of its threads. Without care, it would use the parent's connections,
keep the parent's locks alive, and wait for a lock that another thread held at the fork. An object that holds any of
these registers what must happen to it.

Order. A later object may use an earlier one. So the functions are called from the last one to the first one before a
fork and in the child, and from the first one to the last one in the parent, as a stack is unwound and built again. Each
function is called, even if another one raises.

Forks by other code. uWSGI forks in C, which Python does not notice. ``check`` does, at the first use of a spooler in
the child.
"""

import contextlib
import logging  # noqa: F401  first: in a child, its locks must be usable before the functions are called
import os
import threading
import weakref
from collections.abc import Callable, Iterable
from types import MethodType
from typing import NamedTuple

__all__ = ["check", "lock", "pid", "register"]

Function = Callable[[], object]

lock = threading.RLock()
"""Held during each fork, so that no other thread holds it then. Hold it only for what waits for nothing else."""


class _Registered(NamedTuple):
    """The functions of one registration. Each returns the function to call, or None if its object no longer exists."""

    before: Callable[[], Function | None]
    after_in_parent: Callable[[], Function | None]
    after_in_child: Callable[[], Function | None]

    @property
    def lives(self) -> bool:
        return None not in (self.before(), self.after_in_parent(), self.after_in_child())


_registered: list[_Registered] = []
_room = 64  # registrations after which those of former objects are removed
pid = os.getpid()
"""The id of this process. Asking the kernel for it costs ten times as much."""


def register(
    *,
    before: Function = bool,
    after_in_parent: Function = bool,
    after_in_child: Function = bool,
) -> None:
    """Call functions around each fork, as ``os.register_at_fork`` does. A method is forgotten with its object.

    The functions must not wait for another thread that registers something or imports late.
    """
    global _room  # noqa: PLW0603  it grows with the number of objects
    with lock:
        if len(_registered) >= _room:
            _registered[:] = [one for one in _registered if one.lives]
            _room = max(_room, 2 * len(_registered))
        _registered.append(_Registered(_weak(before), _weak(after_in_parent), _weak(after_in_child)))


def check() -> None:
    """Call what is registered for a child, if this process is the child of a fork that Python has not noticed."""
    if os.getpid() != pid:
        with lock:
            if os.getpid() != pid:
                _begin_in_child()


def _weak(function: Function) -> Callable[[], Function | None]:
    return weakref.WeakMethod(function) if isinstance(function, MethodType) else lambda: function


def _before() -> None:
    with lock:
        found = [one.before() for one in _registered]
    try:
        _call_from_the_last(found)
    finally:
        lock.acquire()


def _after_in_parent() -> None:
    found = [one.after_in_parent() for one in reversed(_registered)]
    lock.release()
    _call_from_the_last(found)


def _after_in_child() -> None:
    try:
        _begin_in_child()
    finally:
        lock.release()


def _begin_in_child() -> None:
    global pid  # noqa: PLW0603  the process that the objects are in
    _call_from_the_last([one.after_in_child() for one in _registered])
    pid = os.getpid()


def _call_from_the_last(functions: Iterable[Function | None]) -> None:
    with contextlib.ExitStack() as stack:
        for function in functions:
            if function is not None:
                stack.callback(function)


os.register_at_fork(before=_before, after_in_parent=_after_in_parent, after_in_child=_after_in_child)
