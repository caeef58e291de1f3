"""Coroutines beside a main thread that is busy, away, or waiting for their ends."""

import asyncio
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from unspool.errors import TaskTimeout
from unspool.runtime.eventloop import EventLoop

PATIENCE = 30.0  # seconds after which something that should happen has not


class Main:
    """The main thread of a worker: its loop, what rings at its door, and what was settled, by whom."""

    def __init__(self) -> None:
        self.rung = threading.Event()
        self.loop = EventLoop(self.rung.set)
        self.settled: list[tuple[int, Any, BaseException | None]] = []
        self.threads: set[str] = set()

    def start(self, number: int, coroutine: Any, timeout: float | None = None) -> None:
        """Runs a coroutine under this number."""

        def done(result: Any, exception: BaseException | None) -> None:
            self.threads.add(threading.current_thread().name)
            self.settled.append((number, result, exception))

        self.loop.start(coroutine, timeout, done)

    def wait(self, most: int) -> None:
        """Goes away until no more than so many are left."""
        while True:
            self.rung.clear()
            self.loop.leave()
            if self.loop.expect(most):
                return self.loop.come_back()
            assert self.rung.wait(PATIENCE), f"{len(self.loop)} never end; settled: {self.settled}"
            self.loop.come_back()


@pytest.fixture
def main() -> Iterator[Main]:
    """A main thread, whose loop is empty again when the test ends."""
    made = Main()
    yield made
    made.wait(0)
    made.loop.close()


def test_a_main_thread_that_is_there_settles_in_its_turn(main: Main) -> None:
    """What has ended waits for it, and is settled by nobody else."""
    ended = threading.Event()

    async def one() -> int:
        asyncio.get_running_loop().call_later(0.001, ended.set)  # when this one has long ended
        return 5

    main.start(1, one())
    assert ended.wait(PATIENCE)
    assert (len(main.loop), main.settled) == (1, [])
    assert main.loop.settle()
    assert (len(main.loop), main.settled) == (0, [(1, 5, None)])
    assert main.threads == {threading.current_thread().name}
    assert not main.loop.settle()


def test_the_loop_settles_while_the_main_thread_is_away(main: Main) -> None:
    """What ends meanwhile, and the main thread is woken when no more are left than it said."""
    main.loop.leave()
    assert main.loop.expect(0)
    go = asyncio.Event()

    async def one(number: int) -> int:
        if number == 9:
            await go.wait()
        return number

    async def let_go() -> None:
        go.set()

    for number in range(10):
        main.start(number, one(number))
    assert not main.loop.expect(1)
    assert main.rung.wait(PATIENCE)
    assert sorted(main.settled) == [(number, number, None) for number in range(9)]
    assert main.threads == {"unspool-async"}
    main.loop.come_back()
    main.start(10, let_go())


def test_whatever_a_coroutine_raises_is_its_end(main: Main) -> None:
    """Also what would end a program; and a time limit that it overran is told from a timeout of its own."""

    async def fail(error: BaseException) -> None:
        raise error

    errors: list[BaseException] = [ValueError("x"), SystemExit(3), KeyboardInterrupt(), asyncio.CancelledError()]
    for number, error in enumerate([*errors, TimeoutError("its own")]):
        main.start(number, fail(error), timeout=PATIENCE)
    main.start(10, asyncio.sleep(PATIENCE), timeout=0.001)
    main.wait(0)
    found = {number: exception for number, _, exception in main.settled}
    assert [found[number] for number in range(4)] == errors
    assert type(found[4]) is TimeoutError
    assert isinstance(found[10], TaskTimeout)
    assert str(found[10]) == "it ran longer than 0.001 s"


def test_an_end_that_cannot_be_settled_stops_no_other(main: Main, caplog: pytest.LogCaptureFixture) -> None:
    """It is told of, and those after it are settled."""

    def broken(_result: Any, _exception: BaseException | None) -> None:
        raise OSError("no disk")

    main.loop.leave()
    main.loop.start(asyncio.sleep(0), None, broken)
    for number in range(3):
        main.start(number, asyncio.sleep(0, number))
    main.loop.come_back()
    main.loop.leave()
    if not main.loop.expect(0):
        assert main.rung.wait(PATIENCE)
    assert sorted(main.settled) == [(number, number, None) for number in range(3)]
    assert "no disk" in caplog.text


def test_each_end_is_settled_once_however_the_main_thread_comes_and_goes(main: Main) -> None:
    """Thousands of short coroutines, begun and settled from both threads, in no foreseeable order."""
    seed = time.time_ns()
    print("seed", seed)
    chance = random.Random(seed)
    for number in range(3_000):
        main.start(number, asyncio.sleep(chance.choice([0, 0, 0.0001, 0.001]), number))
        match chance.randrange(8):
            case 0:
                main.loop.settle()
            case 1:
                main.loop.leave()
                main.loop.come_back()
            case 2:
                main.wait(chance.randrange(200))
    main.wait(0)
    assert Counter(number for number, _, _ in main.settled) == Counter(range(3_000))
    assert all(number == result and exception is None for number, result, exception in main.settled)


def test_a_loop_that_ran_nothing_is_closed() -> None:
    """It has no thread to end."""
    before = threading.active_count()
    loop = EventLoop(lambda: None)
    assert threading.active_count() == before
    loop.close()


def test_the_last_end_wakes_the_main_thread_though_it_cannot_be_settled(main: Main) -> None:
    """Whatever is wrong with the last one's end, the main thread does not wait for it for ever."""
    gate = asyncio.Event()

    async def one() -> None:
        await gate.wait()

    def done(*_: object) -> None:
        raise OSError("no pipe")

    main.loop.start(one(), None, done)
    main.loop.leave()
    assert not main.loop.expect(0)
    main.loop._loop.call_soon_threadsafe(gate.set)
    assert main.rung.wait(PATIENCE)
    main.loop.come_back()
