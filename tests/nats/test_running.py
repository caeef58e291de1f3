"""``unspool run`` on NATS with real processes: verdicts, due times, priorities and killed processes."""

import os
import signal
import time

from tests.nats.conftest import number, until
from tests.runtime.conftest import PATIENCE, Place
from unspool import inspection
from unspool.backends.nats import NatsBackend
from unspool.backends.nats.names import LATER
from unspool.message import State

APP = """
    from datetime import timedelta
    @Spooler.task
    def done(name=""): note("done", name); return True
    @Spooler.task(retry_delay=0.2, retry_jitter=0)
    def again():
        note("again")
        if sum(line.startswith("again") for line in open(os.environ["ORACLE"])) == 1:
            raise ValueError("the first time")
        return True
    @Spooler.task(max_attempts=1)
    def hopeless(): raise ValueError("hopeless")
    @Spooler.task
    def killer(): note("killer"); os.kill(os.getpid(), signal.SIGKILL)
    @Spooler.task
    def waits(name): hold(name); note("ended", name); return True
    @Spooler.task
    def timed(): note("timed", time.time()); return True
"""


def test_verdicts(served: Place, backend: NatsBackend) -> None:
    """Processed tasks leave, failed ones run again, and hopeless and deadly ones are set aside.

    All are in the history.
    """
    served.write_app(APP)
    served.call("done(); again(); hopeless(); killer()")
    running = served.run()
    until(lambda: backend.counts().tasks == dict.fromkeys(State, 0) | {State.DEAD: 2})
    assert running.stop() == 0
    assert sorted(entry.reason for entry in inspection.tasks(backend)) == [
        "ValueError: hopeless",
        "killed its worker 3 times",
    ]
    assert served.lines().count("killer") == 3
    assert served.lines().count("again") == 2
    verdicts = sorted(record.verdict for record in inspection.runs(backend))
    assert verdicts == sorted(["processed", "rescheduled", "processed", "dead", "dead", *["crashed"] * 3])


def test_the_server_keeps_deferred_tasks_back(served: Place, backend: NatsBackend) -> None:
    """The server keeps a deferred task until a moment before its time. It runs on time, and not early."""
    served.write_app(APP)
    due = time.time() + 8
    served.call(f"timed.using(postpone=__import__('datetime').datetime.fromtimestamp({due}))()")
    (entry,) = inspection.tasks(backend)
    assert entry.state is State.DEFERRED
    assert backend.counts().tasks[State.DEFERRED] == 1
    assert number(backend, LATER) == 1
    running = served.run()
    running.wait_for_verdict("processed")
    assert running.stop() == 0
    (line,) = served.lines()
    assert 0 <= float(line.split()[1]) - due < 1


def test_priorities_and_order(served: Place) -> None:
    """Smaller priorities run first, none runs last, and equal ones run in the order of sending."""
    served.write_app(APP)
    served.call("""
        for name in "abc": done(name)
        for name in "de": done.using(priority=9)(name)
        for name in "fg": done.using(priority=0)(name)
    """)
    served.burst()
    assert [line.split()[1] for line in served.lines()] == list("fgdeabc")


def test_a_long_task_is_not_handed_out_twice(served: Place, backend: NatsBackend) -> None:
    """A task that runs for several leases is not handed out to any other worker."""
    served.write_app(APP)
    served.gate("long")
    served.call("waits('long')")
    running = [served.run(), served.run()]
    served.wait_for_line("begun long")
    end = time.monotonic() + 3 * backend.cluster.lease
    served.call("done.using(postpone=__import__('datetime').timedelta(seconds=6))('after')")
    served.wait_for_line("done after")
    assert time.monotonic() >= end - 1
    served.open_gate("long")
    served.wait_for_line("ended long")
    assert [one.stop() for one in running] == [0, 0]
    assert served.lines().count("begun long") == 1
    assert sum(backend.counts().tasks.values()) == 0


def test_a_killed_supervisor_leaves_its_workers_task_alone(served: Place, backend: NatsBackend) -> None:
    """If its supervisor is killed, a worker completes its task, and no other supervisor begins the task."""
    served.write_app(APP)
    served.gate("long")
    served.call("waits('long')")
    first = served.run()
    served.wait_for_line("begun long")
    first.process.kill()
    first.process.wait(PATIENCE)
    second = served.run()
    served.call("done.using(postpone=__import__('datetime').timedelta(seconds=5))('after')")
    served.wait_for_line("done after")
    served.open_gate("long")
    served.wait_for_line("ended long")
    until(lambda: not sum(backend.counts().tasks.values()))
    assert second.stop() == 0
    assert served.lines().count("begun long") == 1


def test_a_killed_worker(served: Place, backend: NatsBackend) -> None:
    """The task of a killed worker begins again at once, not after a lease, and the crash is counted."""
    served.write_app(APP)
    served.gate("long")
    served.call("waits('long')")
    running = served.run()
    served.wait_for_line("begun long")
    (info,) = [info for info in backend.live() if info.role == "worker"]
    assert info.ref
    began = time.monotonic()
    os.kill(info.pid, signal.SIGKILL)
    served.wait_for_line("begun long", 2)
    assert time.monotonic() - began < backend.cluster.lease
    served.open_gate("long")
    running.wait_for_verdict("processed")
    assert running.stop() == 0
    assert [(record.verdict, record.attempt) for record in inspection.runs(backend)] == [
        ("processed", 2),
        ("crashed", 1),
    ]


def test_several_supervisors_share(served: Place, backend: NatsBackend) -> None:
    """Two supervisors run each of many tasks once. Both are needed for three tasks that wait for each other."""
    served.write_app(APP)
    gates = ["one", "two", "three"]
    for name in gates:
        served.gate(name)
    running = [served.run("--processes=2"), served.run("--processes=2")]
    served.call("; ".join(f"waits({name!r})" for name in gates))
    for name in gates:
        served.wait_for_line(f"begun {name}")
    served.call("done.enqueue_many([(number,) for number in range(300)])")
    for name in gates:
        served.open_gate(name)
    for one in running:
        one.wait_for_verdict("processed", "waits")
    until(lambda: not sum(backend.counts().tasks.values()))
    assert [one.stop() for one in running] == [0, 0]
    done = [line.split()[1] for line in served.lines() if line.startswith("done")]
    assert sorted(map(int, done)) == list(range(300))


def test_what_was_handed_out_is_given_back_at_the_end(served: Place, backend: NatsBackend) -> None:
    """A supervisor that stops returns its tasks, so the next one gets them at once."""
    served.write_app(APP)
    served.gate("slow")
    served.call("waits('slow'); [done(number) for number in range(20)]")
    first = served.run()
    served.wait_for_line("begun slow")
    first.signal(signal.SIGTERM)
    served.open_gate("slow")
    assert first.end() == 0
    began = time.monotonic()
    served.burst()
    assert time.monotonic() - began < 10
    assert sum(line.startswith("done") for line in served.lines()) == 20


def test_coroutines_end_beside_functions_and_when_nothing_comes_after_them(served: Place, backend: NatsBackend) -> None:
    """The end of a coroutine is settled while a function runs, and while its worker waits for tasks."""
    served.write_app("""
        @Spooler.task
        async def rest(seconds): await asyncio.sleep(seconds); return True
        @Spooler.task
        def plain(): time.sleep(0.01); return True
    """)
    served.call(
        "rest.enqueue_many([0, 0.001, 0.01, 0.05] * 10); [plain() for _ in range(10)]; rest.enqueue_many([0, 0.1])"
    )
    running = served.run()
    until(lambda: backend.counts().tasks == dict.fromkeys(State, 0))
    assert running.stop() == 0
    assert [record.verdict for record in inspection.runs(backend)] == ["processed"] * 52
