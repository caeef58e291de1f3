"""Workers whose supervisor was killed: each ends in a limited time, whatever its tasks do."""

import os
import select
import signal

import pytest

from .conftest import PATIENCE, Place, Running

STUCK = """
    def block():
        library, lock = ctypes.PyDLL(None), ctypes.create_string_buffer(64)  # a PyDLL keeps the interpreter's lock
        library.pthread_mutex_lock(lock)
        library.pthread_mutex_lock(lock)  # blocks forever, and no signal ends it

    def first(name):
        note("begun", name, os.getpid())
        lines = open(os.environ["ORACLE"]).read().splitlines()
        return sum(line.startswith("begun " + name) for line in lines) == 1

    @Spooler.task(timeout=1, retry_delay=0.1)
    def function():
        if first("stuck"): block()
        return True

    @Spooler.task(timeout=1, retry_delay=0.1)
    async def coroutine():
        if first("stuck"): block()
        return True

    @Spooler.task(timeout=1, retry_delay=0.1)
    async def stubborn():
        held = first("stuck")
        while held:
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                pass
        return True

    @Spooler.task
    async def waits():
        if first("waits"): await asyncio.Event().wait()
        return True

    @Spooler.task(timeout=1, retry_delay=0.1)
    def quick(): note("quick"); return True

    @Spooler.task
    def held(name): hold(name); note("ended", name); return True

    @Spooler.task(timeout=600)
    def limited(name): hold(name); note("ended", name); return True

    @Spooler.task
    def mark(n): note(n); return True
"""


def begun(place: Place, name: str) -> int:
    """Wait until a task has begun, and return its process."""
    start = f"begun {name} "
    place.wait_for_lines(lambda lines: any(line.startswith(start) for line in lines), start)
    return next(int(line.split()[2]) for line in place.lines() if line.startswith(start))


def kill(running: Running) -> None:
    """Kill a supervisor."""
    running.signal(signal.SIGKILL)
    running.process.wait(PATIENCE)


def wait_for_end(pid: int) -> None:
    """Wait until a process that is not a child has ended."""
    descriptor = os.pidfd_open(pid)
    try:
        assert select.select([descriptor], [], [], PATIENCE)[0], f"process {pid} lives"
    finally:
        os.close(descriptor)


@pytest.mark.parametrize("task", ["function", "coroutine", "stubborn"])
def test_an_orphan_that_overruns_is_killed(place: Place, task: str) -> None:
    """A run that cannot be interrupted ends with its worker, although no supervisor is left. Its task and the
    coroutines of the worker run again.
    """
    place.write_app(STUCK)
    place.call("waits()")
    running = place.run("--ending", "0.1")
    worker = begun(place, "waits")
    place.call(f"{task}()")
    assert begun(place, "stuck") == worker
    kill(running)
    wait_for_end(worker)
    again = place.burst()
    assert again.verdicts() == ["processed"] * 2
    assert sum(line.startswith("begun") for line in place.lines()) == 4


def test_the_limit_of_a_run_ends_with_it(place: Place) -> None:
    """A worker that has ended a task with a time limit may run another one for longer, with or without a limit, while
    the kernel kills a worker beside it.
    """
    place.write_app(STUCK)
    place.gate("free")
    place.gate("late")
    place.call("quick(); held('free')")
    running = place.run("--ending", "0.1")
    place.wait_for_line("begun free")
    place.call("quick(); limited('late'); function()")
    beside = place.run("--ending", "0.1", "--processes", "2")
    place.wait_for_line("begun late")
    stuck = begun(place, "stuck")
    kill(running)
    kill(beside)
    wait_for_end(stuck)
    place.open_gate("free")
    place.open_gate("late")
    place.wait_for_line("ended free")
    place.wait_for_line("ended late")
    assert [place.lines().count(line) for line in ("begun free", "begun late")] == [1, 1]


def test_an_overrun_while_the_supervisor_is_stopped_is_one(place: Place) -> None:
    """The kernel kills the worker meanwhile. When the supervisor continues, it treats this as its own kill."""
    place.write_app(STUCK)
    place.call("function()")
    running = place.run("--ending", "0.1")
    worker = begun(place, "stuck")
    running.signal(signal.SIGSTOP)
    wait_for_end(worker)
    running.signal(signal.SIGCONT)
    end = running.wait_for_verdict("timeout")
    assert end["reason"] == "its worker was killed for overrunning the task's time limit"
    running.wait_for_verdict("processed")
    assert running.stop() == 0


def test_an_orphan_begins_nothing_new(place: Place) -> None:
    """It finishes its runs, and leaves the other tickets to the next supervisor."""
    place.write_app(STUCK)
    place.gate("one")
    place.call("held('one'); [mark(n) for n in range(20)]")
    running = place.run()
    place.wait_for_line("begun one")
    kill(running)
    place.open_gate("one")
    running.wait_for_last_process()
    assert place.lines() == ["begun one", "ended one"]
    place.burst()
    assert sorted(map(int, place.lines()[2:])) == list(range(20))


def test_an_orphan_that_hangs_at_its_end_is_killed(place: Place) -> None:
    """An ``atexit`` handler that hangs keeps no worker alive."""
    place.write_app(
        STUCK
        + """
    import atexit
    @Spooler.task
    def hangs():
        atexit.register(block)
        note("begun hangs", os.getpid())
        hold("one")
        return True
"""
    )
    place.gate("one")
    place.call("hangs()")
    running = place.run("--ending", "0.05")
    worker = begun(place, "hangs")
    place.wait_for_line("begun one")
    kill(running)
    place.open_gate("one")
    wait_for_end(worker)
    assert not sum(place.backend.counts().tasks.values())
