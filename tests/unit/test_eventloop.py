"""Coroutines beside a main thread that is busy, away, or waiting for their ends."""

import asyncio
import contextlib
import os
import queue
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from unspool.dispatch import Ending
from unspool.message import Verdict, reason_of
from unspool.runtime.eventloop import EventLoop

PATIENCE = 30.0  # seconds after which something that should happen has not


class Main:
    """The main thread of a worker: its loop, its wake-ups, and what was settled in which thread."""

    def __init__(self) -> None:
        self.rung = threading.Event()
        self.lost = threading.Event()
        self.loop = EventLoop(self.rung.set, self.lost.set)
        self.settled: list[tuple[int, Verdict]] = []
        self.errors: dict[int, str] = {}
        self.threads: set[str] = set()

    def start(self, number: int, coroutine: Any, timeout: float | None = None) -> None:
        """Run a coroutine with this number."""

        def done(ending: Ending) -> None:
            self.threads.add(threading.current_thread().name)
            self.settled.append((number, ending.verdict))
            self.errors[number] = reason_of(ending.error)

        self.loop.start(coroutine, timeout, done)

    def wait(self, most: int) -> None:
        """Leave until at most this many are left."""
        while True:
            self.rung.clear()
            self.loop.leave()
            if self.loop.expect(most):
                return self.loop.come_back()
            assert self.rung.wait(PATIENCE), f"{len(self.loop)} never end; settled: {self.settled}"
            self.loop.come_back()


@pytest.fixture
def main() -> Iterator[Main]:
    """A main thread, whose loop is empty at the end of the test."""
    made = Main()
    yield made
    made.wait(0)
    made.loop.close()


async def fails() -> None:
    """A coroutine that raises."""
    raise ValueError("bad")


@pytest.mark.parametrize("run", [lambda: asyncio.sleep(0), fails, lambda: asyncio.sleep(3600)])
def test_a_run_is_over_before_it_is_settled(main: Main, run: Callable[[], Any]) -> None:
    """The main thread may wait long for a server, and the time limit of a run that has ended must not kill it."""
    over = threading.Event()
    settled: list[Ending] = []
    main.loop.start(run(), 0.1, settled.append, over.set)
    assert over.wait(PATIENCE)
    assert settled == []
    main.wait(0)
    assert len(settled) == 1


def test_a_main_thread_that_is_there_settles_in_its_turn(main: Main) -> None:
    """Ended runs wait for it, and no other thread settles them."""
    ended = threading.Event()

    async def one() -> int:
        asyncio.get_running_loop().call_later(0.001, ended.set)  # when this one has long ended
        return 5

    main.start(1, one())
    assert ended.wait(PATIENCE)
    assert (len(main.loop), main.settled) == (1, [])
    assert main.loop.settle()
    assert (len(main.loop), main.settled) == (0, [(1, Verdict.PROCESSED)])
    assert main.threads == {threading.current_thread().name}
    assert not main.loop.settle()


def test_the_loop_settles_while_the_main_thread_is_away(main: Main) -> None:
    """The loop settles what ends meanwhile, and wakes the main thread when at most the given number is left."""
    main.loop.leave()
    assert main.loop.expect(0)
    go = asyncio.Event()

    async def one(number: int) -> int:
        if number == 9:
            await go.wait()
        return number

    async def let_go() -> None:
        go.set()

    for number in (9, *range(9)):  # the one that stays first, so that there is never none
        main.start(number, one(number))
    assert not main.loop.expect(1)
    assert main.rung.wait(PATIENCE)
    assert sorted(main.settled) == [(number, Verdict.PROCESSED) for number in range(9)]
    assert main.threads == {"unspool-async"}
    main.loop.come_back()
    main.start(10, let_go())


def test_whatever_a_coroutine_raises_is_its_end(main: Main) -> None:
    """This includes exceptions that would end a program. A time limit is distinguished from a timeout of the
    coroutine.
    """

    async def fail(error: BaseException) -> None:
        raise error

    errors: list[BaseException] = [ValueError("x"), SystemExit(3), KeyboardInterrupt(), asyncio.CancelledError()]
    for number, error in enumerate([*errors, TimeoutError("its own")]):
        main.start(number, fail(error), timeout=PATIENCE)
    main.start(10, asyncio.sleep(PATIENCE), timeout=0.001)
    main.wait(0)
    assert {verdict for _, verdict in main.settled if verdict is not Verdict.TIMEOUT} == {Verdict.RESCHEDULED}
    assert main.errors == {
        0: "ValueError: x",
        1: "SystemExit: 3",
        2: "KeyboardInterrupt",
        3: "asyncio.exceptions.CancelledError",
        4: "TimeoutError: its own",
        10: "unspool.errors.TaskTimeout: it ran longer than 0.001 s",
    }
    assert (10, Verdict.TIMEOUT) in main.settled


def test_an_end_that_cannot_be_settled_stops_no_other(main: Main, caplog: pytest.LogCaptureFixture) -> None:
    """It is reported, and later ones are settled."""

    def broken(_ending: Ending) -> None:
        raise OSError("no disk")

    main.loop.leave()
    main.loop.start(asyncio.sleep(0), None, broken)
    for number in range(3):
        main.start(number, asyncio.sleep(0, True))
    main.loop.come_back()
    main.loop.leave()
    if not main.loop.expect(0):
        assert main.rung.wait(PATIENCE)
    assert sorted(main.settled) == [(number, Verdict.PROCESSED) for number in range(3)]
    assert "no disk" in caplog.text


def test_each_end_is_settled_once_however_the_main_thread_comes_and_goes(main: Main) -> None:
    """Thousands of short coroutines are begun and settled by both threads in an arbitrary order."""
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
    assert Counter(main.settled) == Counter((number, Verdict.PROCESSED) for number in range(3_000))


def test_a_loop_that_ran_nothing_is_closed() -> None:
    """There is no thread to end."""
    before = threading.active_count()
    loop = EventLoop(lambda: None, lambda: None)
    assert threading.active_count() == before
    loop.close()


def test_the_last_end_wakes_the_main_thread_though_it_cannot_be_settled(main: Main) -> None:
    """If the settlement of the last one fails, the main thread does not wait forever."""
    gate = asyncio.Event()
    loops: queue.SimpleQueue[asyncio.AbstractEventLoop] = queue.SimpleQueue()

    async def one() -> None:
        loops.put(asyncio.get_running_loop())
        await gate.wait()

    def done(*_: object) -> None:
        raise OSError("no pipe")

    main.loop.start(one(), None, done)
    main.loop.leave()
    assert not main.loop.expect(0)
    loops.get(timeout=PATIENCE).call_soon_threadsafe(gate.set)
    assert main.rung.wait(PATIENCE)
    main.loop.come_back()


async def _exit() -> None:
    raise SystemExit(3)


def _interrupt() -> None:
    raise KeyboardInterrupt


async def ends_the_loop(how: str) -> None:
    """Return a task that ends the loop of its worker in this way, and then waits."""
    loop = asyncio.get_running_loop()
    match how:
        case "exit":
            child = loop.create_task(_exit())  # held, or it might be collected
        case "interrupt":
            loop.call_soon(_interrupt)
        case "later":
            loop.call_later(0.001, _interrupt)
        case "stop":
            loop.stop()
    await asyncio.sleep(PATIENCE)
    del child


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("exit", "SystemExit: 3"),
        ("interrupt", "KeyboardInterrupt"),
        ("later", "KeyboardInterrupt"),
        ("stop", "RuntimeError: a task cannot stop the event loop of its worker: other tasks run on it"),
    ],
)
def test_a_coroutine_that_ends_the_loop_fails_alone(
    main: Main, how: str, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It fails at once. Those beside it and after it continue on the same loop."""
    gate = asyncio.Event()

    async def beside() -> bool:
        return await gate.wait()

    async def let_go() -> None:
        gate.set()

    main.start(1, beside())
    main.start(2, ends_the_loop(how))
    main.wait(1)
    assert main.settled == [(2, Verdict.RESCHEDULED)]
    assert main.errors[2] == reason
    main.start(3, let_go())
    main.wait(0)
    assert sorted(main.settled) == [(1, Verdict.PROCESSED), (2, Verdict.RESCHEDULED), (3, Verdict.SKIPPED)]
    ended = [message for message in caplog.messages if "ended its worker's event loop" in message]
    assert len(ended) == (how != "stop")


def test_a_loop_that_is_ended_after_its_cause_has_ended(main: Main, caplog: pytest.LogCaptureFixture) -> None:
    """No run is left to fail, and the others continue."""
    over = threading.Event()

    async def cause() -> bool:
        asyncio.get_running_loop().call_later(0.001, _interrupt)
        asyncio.get_running_loop().call_later(0.002, over.set)
        return True

    main.start(1, cause())
    main.wait(0)
    assert over.wait(PATIENCE)
    main.start(2, asyncio.sleep(0, True))
    main.wait(0)
    assert sorted(main.settled) == [(1, Verdict.PROCESSED), (2, Verdict.PROCESSED)]
    assert "ended its worker's event loop by KeyboardInterrupt" in caplog.text


def test_a_coroutine_that_is_cancelled_before_it_begins_fails(main: Main) -> None:
    """Another task may cancel all tasks."""

    async def cancel_all() -> bool:
        for other in asyncio.all_tasks() - {asyncio.current_task()}:
            other.cancel()
        return True

    ready = threading.Event()

    async def block() -> bool:
        return ready.wait(PATIENCE)  # the loop looks at the others when all three are there

    main.start(0, block())
    main.start(1, cancel_all())
    main.start(2, asyncio.sleep(PATIENCE))
    main.start(3, asyncio.sleep(PATIENCE))
    ready.set()
    main.wait(0)
    main.settled.remove((0, Verdict.PROCESSED))
    assert sorted(main.settled) == [(1, Verdict.PROCESSED), (2, Verdict.RESCHEDULED), (3, Verdict.RESCHEDULED)]
    assert main.errors[2] == main.errors[3] == "it was cancelled before it began"


def test_a_loop_whose_descriptors_are_closed_is_lost() -> None:
    """It cannot continue, and calls ``lost``, with which a worker ends its process."""

    async def close() -> None:
        for name in os.listdir("/proc/self/fd"):
            with contextlib.suppress(OSError):
                if os.readlink(f"/proc/self/fd/{name}") == "anon_inode:[eventpoll]":
                    os.close(int(name))

    pid = os.fork()
    if pid == 0:
        signal.alarm(int(PATIENCE))
        loop = EventLoop(lambda: None, lambda: os._exit(5))
        loop.start(close(), None, lambda _: None)
        while True:
            signal.pause()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 5
