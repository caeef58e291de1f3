"""What is called around a fork, in which order, and what a fork in C changes."""

import ctypes
import gc
import os
import sys
from collections.abc import Callable
from multiprocessing import Pipe

import pytest

from unspool import forks, imports


class Part:
    """An object that notes what is called."""

    def __init__(self, name: str, calls: list[str]) -> None:
        self.name = name
        self.calls = calls
        forks.register(before=self.before, after_in_parent=self.in_parent, after_in_child=self.in_child)

    def before(self) -> None:
        self.calls.append(f"{self.name} before")

    def in_parent(self) -> None:
        self.calls.append(f"{self.name} in parent")

    def in_child(self) -> None:
        self.calls.append(f"{self.name} in child")


@pytest.fixture(autouse=True)
def own_registrations(monkeypatch: pytest.MonkeyPatch) -> None:
    """Functions that a test registers are called in this test only."""
    monkeypatch.setattr(forks, "_registered", list(forks._registered))  # noqa: SLF001  there is one for the process


def in_child(fork: Callable[[], int], ask: Callable[[], object]) -> object:
    """Return what a child finds."""
    ours, theirs = Pipe()
    pid = fork()
    if pid == 0:
        try:
            theirs.send(ask())
        finally:
            os._exit(0)
    try:
        assert ours.poll(30)
        return ours.recv()
    finally:
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_the_order_of_the_calls() -> None:
    """Later objects may use earlier ones: the last comes first, except in the parent."""
    calls: list[str] = []
    parts = [Part("a", calls), Part("b", calls)]
    before = ["b before", "a before"]
    assert in_child(os.fork, lambda: calls) == [*before, "b in child", "a in child"]
    assert calls == [*before, "a in parent", "b in parent"]
    assert len(parts) == 2


def test_an_object_that_is_gone_is_forgotten() -> None:
    """Nothing keeps an object alive for its forks, and its registration is removed when others are made.

    The number of registrations shows only in the memory that they take, so the test counts them.
    """
    calls: list[str] = []
    Part("gone", calls)
    gc.collect()
    assert in_child(os.fork, lambda: calls) == []
    many = 3 * forks._room  # noqa: SLF001
    for _ in range(many):
        Part("gone", calls)
    assert len(forks._registered) < many  # noqa: SLF001


def test_a_function_that_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    """The other functions are called all the same, and Python reports the error; nothing stays locked."""
    calls: list[str] = []
    reported: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda found: reported.append(repr(found.exc_value)))

    def fail() -> None:
        raise ValueError("a fault")

    parts = [Part("a", calls)]
    forks.register(before=fail, after_in_parent=fail, after_in_child=fail)
    parts.append(Part("b", calls))
    child = in_child(os.fork, lambda: [*calls, *reported, imports.late.acquire(blocking=False)])
    assert child == ["b before", "a before", "b in child", "a in child", *["ValueError('a fault')"] * 2, True]
    assert calls == ["b before", "a before", "a in parent", "b in parent"]
    assert reported == ["ValueError('a fault')"] * 2
    assert len(parts) == 2


def test_a_fork_in_c() -> None:
    """Python does not notice it. The first use in the child does, once, and a parent's use does nothing."""
    calls: list[str] = []
    part = Part("a", calls)
    fork = ctypes.CDLL(None).fork
    forks.check()
    assert calls == []

    def ask() -> list[str]:
        assert calls == []
        forks.check()
        forks.check()
        return calls

    assert in_child(fork, ask) == ["a in child"]
    assert part.calls == []
