"""Objects of a task that run code when they are inspected or deleted, which is part of the run."""

import os
import signal
from collections import Counter

from ..runtime.conftest import Place

MARK = """
    @Spooler.task
    def mark(): note("mark", os.getpid()); return True
"""


def test_results_and_exceptions_that_fail_when_they_are_looked_at(place: Place) -> None:
    """Results are processed, exceptions are failures, and each task runs once, all in one worker."""
    place.write_app(
        MARK
        + """
    class Proxy:
        def __getattribute__(self, name): raise RuntimeError("working outside of request context: " + name)
    class Munch(dict):
        def __getattr__(self, name): return self.setdefault(name, Munch())
    class Lazy:
        @property
        def __class__(self): raise SystemExit("not set up")
    class Mute(Exception):
        def __str__(self): raise SystemExit("no text")
        def __bool__(self): raise SystemExit("neither")
    class Odd(OSError):
        @property
        def errno(self): raise SystemExit("no number")
    class Computed(ResultProcessed):
        exception = property(lambda self: sys.exit("no exception"), lambda self, value: None)
    @Spooler.task
    def give(kind): note(kind); return globals()[kind]()
    @Spooler.task
    async def agive(kind): note(kind); return globals()[kind]()
    @Spooler.task(max_attempts=1)
    def fail(kind): note(kind); raise globals()[kind]()
    @Spooler.task(max_attempts=1)
    async def afail(kind): note(kind); raise globals()[kind]()
    """
    )
    place.call("""
    for task in give, agive:
        for kind in "Proxy", "Munch", "Lazy": task(kind)
    for task in fail, afail:
        for kind in "Mute", "Odd": task(kind)
    give.using(priority=1)("Computed")
    mark()
    """)
    running = place.burst()
    ran = Counter(line for line in place.lines() if not line.startswith("mark"))
    assert ran == {"Computed": 1} | dict.fromkeys(["Proxy", "Munch", "Lazy", "Mute", "Odd"], 2)
    verdicts = running.verdicts()
    assert (verdicts.count("processed"), verdicts.count("dead"), verdicts.count("rescheduled")) == (7, 4, 1)
    assert len({line["worker"] for line in running.seen if "worker" in line}) == 1
    reasons = {line["reason"] for line in running.seen if line.get("verdict") == "dead"}
    assert any("Mute" in reason for reason in reasons)


def test_an_object_that_hangs_when_it_ends_does_so_within_the_time_limit(place: Place) -> None:
    """The object may be the result, a part of the task, or in a failure's traceback: the run is interrupted, and the
    next task runs.
    """
    place.write_app(
        MARK
        + """
    from unspool.tasks import TaskOptions
    class Slow:
        def __del__(self):
            note("ends")
            time.sleep(3600)
    @Spooler.task(timeout=1)
    def result(): return Slow()
    class Kept(SpoolerTask):
        type_id = "kept"
        options = TaskOptions.of(timeout=1)
        __slots__ = ("slow",)
        def process(self): self.slow = Slow(); return True
    @Spooler.task(timeout=1, max_attempts=1)
    def failure(): slow = Slow(); raise ValueError
    """
    )
    place.call("result(); Spooler.send_message_raw('kept'); failure(); mark()")
    running = place.run()
    running.wait_for_verdict("processed", "mark")
    assert running.stop() == 0
    assert place.lines()[:3] == ["ends"] * 3
    assert running.verdicts()[:2] == ["processed"] * 2


def test_a_worker_that_is_told_to_end_ends_after_its_task(place: Place) -> None:
    """Each kind of task may send TERM to itself, like a service manager. The next one runs in another worker."""
    place.write_app(
        MARK
        + """
    @Spooler.task
    def long(): hold("gate"); note("end", os.getpid()); return True
    """
    )
    place.gate("gate")
    place.call("mark(); long(); mark()")
    running = place.run()
    running.wait_for_verdict("processed", "mark")
    place.wait_for_line("begun gate")
    (worker,) = {int(line.split()[1]) for line in place.lines() if line.startswith("mark")}
    os.kill(worker, signal.SIGTERM)
    place.open_gate("gate")
    running.wait_for_verdict("processed", "long")
    running.wait_for_verdict("processed", "mark")
    assert running.stop() == 0
    assert running.verdicts() == ["processed"] * 3
    mark, begun, end, after = place.lines()
    assert (begun, end) == ("begun gate", f"end {worker}")
    assert mark == f"mark {worker}" != after
