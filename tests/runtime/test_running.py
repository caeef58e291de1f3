"""The results of tasks in real supervisors and workers, on real files."""

import signal
from collections import Counter

import pytest

from unspool import inspection
from unspool.backends.change import RunNow
from unspool.message import State

from .conftest import Place


def test_each_task_runs_once_and_nothing_is_left(place: Place) -> None:
    """Two workers run a thousand tasks of two producers, each once, and all are in the history."""
    place.write_app("@Spooler.task\ndef mark(n): note(n); return True")
    place.call("[mark(n) for n in range(500)]; mark.enqueue_many(range(500, 1000))")
    running = place.burst("--processes", "2")
    assert sorted(map(int, place.lines())) == list(range(1000))
    assert sum(place.backend.counts().tasks.values()) == 0
    records = inspection.runs(place.backend, limit=2000)
    assert Counter(record.verdict for record in records) == {"processed": 1000}
    assert len({record.pid for record in records}) == 2
    assert running.seen[-1]["message"] == "stopped: 1000 tasks run"


def test_verdicts(place: Place) -> None:
    """True, another value and ResultProcessed are processed, None and ResultSkipped are skipped, and all of
    them end.
    """
    place.write_app("""
        results = [True, "x", ResultProcessed(3), None, ResultSkipped()]
        @Spooler.task
        def give(n): note(n); return results[n]
    """)
    place.call("[give(n) for n in range(5)]")
    running = place.burst()
    assert running.verdicts() == ["processed"] * 3 + ["skipped"] * 2
    assert place.lines() == ["0", "1", "2", "3", "4"]
    assert sum(place.backend.counts().tasks.values()) == 0


def test_a_failing_task_is_retried_and_then_dead(place: Place) -> None:
    """A task that raises runs again after its delay, three times in all, and is then set aside with its traceback."""
    place.write_app("""
        @Spooler.task(max_attempts=3, retry_delay=0.05)
        def fail(n): note("run", n); raise ValueError("number %d" % n)
    """)
    place.call("fail(7)")
    running = place.run()
    dead = running.wait_for_verdict("dead")
    assert running.stop() == 0
    assert place.lines() == ["run 7"] * 3
    assert running.verdicts() == ["rescheduled", "rescheduled", "dead"]
    assert dead["reason"] == "ValueError: number 7"
    (entry,) = inspection.tasks(place.backend)
    assert (entry.state, entry.attempts, entry.reason) == (State.DEAD, 3, "ValueError: number 7")
    records = inspection.runs(place.backend, id=dead["id"])
    assert [record.attempt for record in records] == [3, 2, 1]
    assert all("in fail" in record.error for record in records)


def test_the_current_task(place: Place) -> None:
    """A function, a coroutine beside others, what they call and their asyncio tasks know which task they belong to. A
    thread of a task and the code between tasks belong to none."""
    place.write_app("""
    import asyncio, threading, unspool
    def say(what):
        try:
            now = unspool.current()
            note(what, now.id.rpartition("/")[2], now.name, now.attempt)
        except unspool.errors.NotInTask:
            note(what, "none")
    say("import")
    @Spooler.task(retry_delay=0)
    def function():
        say("function")
        thread = threading.Thread(target=say, args=["thread"]); thread.start(); thread.join()
        if unspool.current().attempt == 1: raise ValueError
    @Spooler.task
    async def coroutine(n):
        await asyncio.sleep(0.001)
        say(f"coroutine {n}")
        await asyncio.create_task(asyncio.sleep(0))
        await asyncio.to_thread(say, f"to_thread {n}")
        await asyncio.gather(asyncio.create_task(later(n)))
    async def later(n): say(f"later {n}")
    """)
    place.call("function(), [coroutine(n) for n in range(3)]")
    names = {entry.task: [] for entry in inspection.tasks(place.backend)}
    for entry in inspection.tasks(place.backend):
        names[entry.task].append(entry.id.rpartition("/")[2])
    place.burst()
    (function,), coroutines = names["tasks:function"], names["tasks:coroutine"]
    lines = place.lines()
    assert lines[:2] == ["import none"] * 2  # of the sender and of the worker
    assert [line for line in lines if line.startswith(("function", "thread"))] == [
        f"function {function} tasks:function 1",
        "thread none",
        f"function {function} tasks:function 2",
        "thread none",
    ]
    expected = {
        f"{what} {n} {id} tasks:coroutine 1"
        for n, id in enumerate(coroutines)
        for what in ("coroutine", "to_thread", "later")
    }
    assert expected < set(lines)
    assert len(lines) == 2 + 4 + len(expected)


def test_dead_at_once(place: Place) -> None:
    """A function and a coroutine may end as dead at their first attempt, by ``Dead`` or the type of their error."""
    place.write_app("""
    from unspool import Dead
    @Spooler.task
    def function(): raise Dead("no such customer")
    @Spooler.task(no_retry_for=LookupError)
    async def coroutine(): raise KeyError("x")
    """)
    place.call("function(); coroutine()")
    running = place.burst()
    assert running.verdicts() == ["dead", "dead"]
    reasons = sorted(str(line["reason"]) for line in running.seen if line.get("verdict") == "dead")
    assert reasons == ["KeyError: 'x'", "unspool.errors.Dead: no such customer"]


def test_a_rescheduled_result_runs_again(place: Place) -> None:
    """ResultRescheduled causes another run, like an exception."""
    place.write_app("""
        @Spooler.task(retry_delay=0.01)
        def again():
            note("run")
            return ResultRescheduled() if len(open(os.environ["ORACLE"]).readlines()) < 3 else True
    """)
    place.call("again()")
    running = place.run()
    running.wait_for_verdict("processed")
    assert running.stop() == 0
    assert place.lines() == ["run"] * 3


def test_a_task_that_kills_its_worker_is_dead_after_three_crashes(place: Place) -> None:
    """A segfaulting task is counted although it reports nothing, and ends dead. Others continue."""
    place.write_app("""
        @Spooler.task
        def crash(): note("crash"); os.kill(os.getpid(), signal.SIGSEGV)
        @Spooler.task
        def mark(n): note(n); return True
    """)
    place.call("crash(); [mark(n) for n in range(20)]")
    running = place.burst()
    assert Counter(place.lines())["crash"] == 3
    assert sorted(int(line) for line in place.lines() if line != "crash") == list(range(20))
    assert [verdict for verdict in running.verdicts() if verdict != "processed"] == ["crashed"] * 3 + ["dead"]
    (entry,) = inspection.tasks(place.backend)
    assert (entry.state, entry.reason) == (State.DEAD, "killed its worker 3 times")


def test_exit_in_a_task_is_a_failure_and_not_a_crash(place: Place) -> None:
    """A segfaulting task is counted although it reports nothing, and ends dead. Others continue."""
    place.write_app("""
        @Spooler.task(max_attempts=1)
        def leave(): sys.exit(3)
        @Spooler.task
        def vanish(): os._exit(0)
    """)
    place.call("leave(); vanish()")
    running = place.burst()
    assert running.verdicts() == ["dead", "crashed", "crashed", "crashed", "dead"]
    assert {entry.reason for entry in inspection.tasks(place.backend)} == {"SystemExit: 3", "killed its worker 3 times"}


def test_a_run_that_ends_its_worker_is_one_of_the_attempts(place: Place) -> None:
    """A task with one attempt that kills its worker runs once, and history and listing agree."""
    place.write_app("@Spooler.task(max_attempts=1)\ndef vanish(): note('ran'); os._exit(1)")
    place.call("vanish()")
    assert place.burst().verdicts() == ["crashed", "dead"]
    assert place.lines() == ["ran"]
    (entry,) = inspection.tasks(place.backend)
    assert (entry.state, entry.attempts, entry.reason) == (State.DEAD, 1, "its only attempt ended with its worker")
    assert [record.attempt for record in inspection.runs(place.backend)] == [1, 1]


STUCK = """
    @Spooler.task(timeout=1, max_attempts={attempts}, retry_delay={delay})
    def stuck():
        note("stuck")
        signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 32))
        ctypes.CDLL(None).sleep(3600)
"""


def test_a_run_that_had_to_be_killed_waits_for_the_next(place: Place) -> None:
    """The task is postponed like a failed one, and listings show that."""
    place.write_app(STUCK.format(attempts=3, delay=600))
    place.call("stuck()")
    line = next(line for line in place.burst().seen if line.get("verdict") == "timeout")
    (entry,) = inspection.tasks(place.backend)
    assert (entry.state, entry.attempts, entry.due) == (State.DEFERRED, 1, pytest.approx(line["until"], abs=0.01))
    assert place.lines() == ["stuck"]
    (record,) = inspection.runs(place.backend)
    assert record.duration > 2.0, "it has the time limit, and some seconds more until it is killed"
    assert entry.due - record.started - record.duration == pytest.approx(600, rel=0.2), "that began when it began"


def test_a_run_that_ends_its_worker_has_its_times(place: Place) -> None:
    """History shows when such a run began and how long it took, for functions and coroutines."""
    place.write_app("""
        @Spooler.task(max_attempts=1)
        def plain(): note(time.time()); time.sleep(0.2); os._exit(1)
        @Spooler.task(max_attempts=1)
        async def coroutine(): note(time.time()); await asyncio.sleep(0.2); os._exit(1)
    """)
    for name in ("plain", "coroutine"):
        place.call(f"{name}()")
        place.burst()
        ran = float(place.lines()[-1])
        record = next(record for record in inspection.runs(place.backend) if record.verdict == "crashed")
        assert record.task == f"tasks:{name}"
        assert record.started <= ran
        assert record.started + record.duration >= ran + 0.2


def test_the_last_run_that_had_to_be_killed(place: Place) -> None:
    """Its attempts are used up, so it is set aside at once."""
    place.write_app(STUCK.format(attempts=1, delay=600))
    place.call("stuck()")
    assert place.burst().verdicts() == ["timeout", "dead"]
    assert place.lines() == ["stuck"]


def test_a_time_limit_interrupts_python_code(place: Place) -> None:
    """A task that overruns is interrupted, may clean up, counts an attempt, and its worker is replaced."""
    place.write_app("""
        @Spooler.task(max_attempts=1, timeout=1)
        def slow():
            try:
                time.sleep(3600)
            finally:
                note("cleaned up")
        @Spooler.task
        def mark(): note("next"); return True
    """)
    place.call("slow(); mark()")
    running = place.burst()
    assert running.verdicts() == ["dead", "processed"]
    assert place.lines() == ["cleaned up", "next"]
    assert len({line["worker"] for line in running.seen if "worker" in line}) == 2


def test_a_time_limit_kills_what_cannot_be_interrupted(place: Place) -> None:
    """A call that blocks in C with the signal blocked is killed from outside, and the next task runs."""
    place.write_app("""
        @Spooler.task(timeout=1)
        def stuck():
            note("stuck")
            signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 32))
            ctypes.CDLL(None).sleep(3600)
        @Spooler.task(priority=1)
        def mark(): note("next"); return True
    """)
    place.call("stuck()")
    running = place.run()
    killed = running.wait_for_verdict("timeout")
    assert killed["reason"] == "its worker was killed for overrunning the task's time limit"
    place.call("mark()")
    running.wait_for_verdict("processed")
    running.signal(signal.SIGQUIT)
    assert running.end() == 0


def test_a_time_limit_does_not_include_the_settling_of_the_end(place: Place) -> None:
    """A backend that does not answer may take long to settle. Another worker's task shows that the limit has passed."""
    place.write_app("""
        from unspool import points
        points.reach = lambda name: hold("settling") if name == "run.end" and quick.ran else None

        @Spooler.task(timeout=1)
        def quick(): quick.ran = True; return True
        quick.ran = False
        @Spooler.task(timeout=1, retry_delay=3600)
        def stuck():
            note("stuck")
            signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 32))
            ctypes.CDLL(None).sleep(3600)
    """)
    place.gate("settling")
    place.call("quick()")
    running = place.run("--processes", "2")
    place.wait_for_line("begun settling")
    place.call("stuck()")
    assert (
        running.wait_for_verdict("timeout")["reason"] == "its worker was killed for overrunning the task's time limit"
    )
    place.open_gate("settling")
    running.wait_for_verdict("processed", "quick")
    assert running.stop() == 0
    assert sorted(running.verdicts()) == ["processed", "timeout"]


def test_a_later_task_of_higher_priority_overtakes_all_that_wait(place: Place) -> None:
    """With 300 tasks handed out and none begun, priority 1 runs next, then priority 5, then the others in order."""
    place.write_app("""
        @Spooler.task
        def first(): hold("first"); return True
        @Spooler.task
        def mark(n): note(n); return True
    """)
    place.gate("first")
    place.call("first(); [mark(n) for n in range(300)]")
    running = place.run()
    running.wait_for_message("started")
    place.wait_for_line("begun first")
    place.call("mark.using(priority=5)('five'); mark.using(priority=1)('one')")
    place.open_gate("first")
    running.wait_for(lambda line: len(place.lines()) == 303)
    assert running.stop() == 0
    assert place.lines() == ["begun first", "one", "five", *map(str, range(300))]


def test_postponed_tasks_are_never_early_and_come_in_order(place: Place) -> None:
    """Tasks with different due times run in this order, none before its time."""
    place.write_app("""
        @Spooler.task
        def late(due): note(due, time.time()); return True
    """)
    place.call("""
        from datetime import datetime
        now = time.time()
        dues = [now + ahead for ahead in (0.6, 0.2, 0.4)]
        Spooler.send_many([late.using(postpone=datetime.fromtimestamp(due)).message(due) for due in dues])
    """)
    running = place.run()
    for _ in range(3):
        running.wait_for_verdict("processed")
    assert running.stop() == 0
    times = [tuple(map(float, line.split())) for line in place.lines()]
    assert all(due <= ran for due, ran in times)
    assert times == sorted(times)


def test_async_tasks_run_many_at_once(place: Place) -> None:
    """Fifty coroutines that each wait for all others can only end if they run at the same time."""
    place.write_app("""
        arrived = []
        everybody = asyncio.Event()
        @Spooler.task
        async def meet(n):
            arrived.append(n)
            if len(arrived) == 50:
                everybody.set()
            await everybody.wait()
            return True
        @Spooler.task
        async def fail(): raise KeyError("async")
        @Spooler.task(timeout=0.05, max_attempts=1)
        async def slow(): await asyncio.sleep(3600)
    """)
    place.call("[meet(n) for n in range(50)]; fail(); slow()")
    running = place.burst("--concurrency", "60")
    assert Counter(running.verdicts()) == {"processed": 50, "rescheduled": 1, "dead": 1}
    assert place.backend.counts().tasks[State.DEFERRED] == 1


def test_no_more_coroutines_run_than_asked_for(place: Place) -> None:
    """However many are waiting, the limit holds, and each one that ends makes room for another."""
    place.write_app("""
        running = 0
        @Spooler.task
        async def count(n):
            global running
            running += 1
            note(running)
            await asyncio.sleep(0.001)
            running -= 1
            return True
    """)
    place.call("count.enqueue_many(range(300))")
    running = place.burst("--concurrency", "7")
    assert running.verdicts() == ["processed"] * 300
    assert max(map(int, place.lines())) == 7


def test_a_coroutine_that_blocks_the_loop_stops_no_plain_function(place: Place) -> None:
    """It can end only when a later function has run and was reported, in the same worker."""
    place.write_app("""
        @Spooler.task(priority=1)
        async def blocking():
            hold("one")
            return True
        @Spooler.task
        def plain(): return True
    """)
    place.gate("one")
    place.call("blocking(); plain()")
    running = place.run()
    place.wait_for_line("begun one")
    running.wait_for_verdict("processed", "plain")
    place.open_gate("one")
    running.wait_for_verdict("processed", "blocking")
    assert running.stop() == 0


def test_coroutines_end_while_a_plain_function_runs(place: Place) -> None:
    """They are settled and reported before the worker's main thread returns."""
    place.write_app("""
        @Spooler.task(priority=1)
        async def quick(n):
            while not os.path.exists(os.environ["GATES"] + "/begun"):
                await asyncio.sleep(0.01)
            return True
        @Spooler.task
        def held():
            open(os.environ["GATES"] + "/begun", "w").close()
            hold("one")
            return True
    """)
    place.gate("one")
    place.call("quick.enqueue_many(range(50)); held()")
    running = place.run()
    for _ in range(50):
        running.wait_for_verdict("processed", "quick")
    assert place.backend.counts().tasks == {**dict.fromkeys(State, 0), State.RUNNING: 1}
    place.open_gate("one")
    running.wait_for_verdict("processed", "held")
    assert running.stop() == 0


def test_an_unknown_function_is_kept_for_a_deploy(place: Place) -> None:
    """A task whose function is missing is deferred, the log names it, and it runs when the function exists."""
    place.write_app("@Spooler.task(retry_delay=0.05)\ndef old(n): note('ran', n); return True")
    place.call("old(1)")
    (place.root / "tasks.py").write_text("import unspool")
    running = place.burst()
    assert running.verdicts() == ["rescheduled"]
    (line,) = [line for line in running.seen if "verdict" in line]
    assert "no task function 'tasks:old'" in line["reason"]
    (entry,) = inspection.tasks(place.backend)
    assert entry.state is State.DEFERRED
    place.backend.change(entry.id, RunNow())
    place.write_app("@Spooler.task(retry_delay=0.05)\ndef old(n): note('ran', n); return True")
    place.burst()
    assert place.lines() == ["ran 1"]


def test_heirs_and_raw_messages_find_their_handlers(place: Place) -> None:
    """``ucfg_<type id>`` and ``<type id>`` go to the subclass, others to SpoolerTask, and unknown ``ucfg_`` ones are
    kept.
    """
    place.write_app("""
        class Mail(SpoolerTask):
            type_id = "mail"
            def process(self):
                note(self.message, self.payload["to"])
                return self.mark_processed()
    """)
    place.call("""
        Spooler.send_message_raw("ucfg_mail", payload={"to": "a"})
        Spooler.send_message_raw("mail", payload={"to": "b"})
        Spooler.send_message_raw("hello")
        Spooler.send_message_raw("ucfg_nobody")
    """)
    running = place.burst()
    assert place.lines() == ["ucfg_mail a", "mail b"]
    assert running.verdicts() == ["processed"] * 3 + ["rescheduled"]


def test_large_messages_and_payloads_arrive_whole(place: Place) -> None:
    """Arguments of 3 MB and a message text of 200 KB, which exceed uWSGI's variables, arrive unchanged."""
    place.write_app("""
        import hashlib
        digest = lambda data: hashlib.sha256(data).hexdigest()
        @Spooler.task
        def take(data): note(digest(data)); return True
        class Long(SpoolerTask):
            type_id = "x" * 100_000
            def process(self):
                note(len(self.message), len(self.payload))
                return True
    """)
    place.call("take(bytes(range(256)) * 12_000); Spooler.send_message_raw('x' * 100_000, payload='y' * 100_000)")
    place.burst()
    import hashlib

    assert place.lines() == [hashlib.sha256(bytes(range(256)) * 12_000).hexdigest(), "100000 100000"]


def test_one_bad_task_does_not_stop_the_others(place: Place) -> None:
    """Some tasks leak descriptors, change directory, mask and signal handlers, and write a lot: the others
    still run.
    """
    place.write_app("""
        @Spooler.task
        def mess(n):
            os.chdir("/"); os.umask(0o777); signal.signal(signal.SIGTERM, signal.SIG_IGN)
            sys.stdout.write("x" * 100_000)
            open("/dev/null")
            return True
        @Spooler.task
        def mark(n): note(n); return True
    """)
    place.call("[(mess(n), mark(n)) for n in range(30)]")
    running = place.burst()
    assert Counter(running.verdicts()) == {"processed": 60}
    assert len(place.lines()) == 30


def test_burst_ends_only_when_no_worker_runs_anything(place: Place) -> None:
    """Each run kills its worker while the other worker takes the next task: all runs are made before the end."""
    place.write_app("""
        @Spooler.task(max_attempts=5, retry_delay=0, timeout=0.05)
        def slow(): time.sleep(3600)
    """)
    place.call("slow()")
    assert place.burst("--processes", "2").verdicts() == [*["timeout"] * 4, "dead"]


def test_a_task_that_kills_its_worker_takes_no_coroutine_with_it(place: Place) -> None:
    """Coroutines beside one that kills the worker repeatedly die with it, but not often enough to be dead: then each
    runs alone, and only the one that kills is set aside.
    """
    place.write_app("""
        import asyncio
        @Spooler.task
        async def innocent(n): await asyncio.sleep(0.05); note(n); return True
        @Spooler.task
        async def guilty(): os._exit(9)
    """)
    place.call("[innocent(n) for n in range(5)]; guilty()")
    place.burst()
    assert [entry.task for entry in inspection.tasks(place.backend)] == ["tasks:guilty"]
    assert sorted(place.lines()) == list("01234")


def test_a_coroutine_that_kills_its_worker_is_named(place: Place) -> None:
    """Each of its crashes has a line and a record, like those of a function."""
    place.write_app("@Spooler.task\nasync def guilty(): os._exit(9)")
    place.call("guilty()")
    assert place.burst().verdicts() == ["crashed", "crashed", "crashed", "dead"]


def test_a_coroutine_that_ends_leaves_the_sign_of_life_to_another(place: Place) -> None:
    """While a function runs beside them, coroutines end: the worker is still shown to run it."""
    place.write_app("""
        @Spooler.task(priority=1)
        async def quick():
            note("quick")
            while not os.path.exists(os.environ["GATES"] + "/begun"):
                await asyncio.sleep(0.01)
            return True
        @Spooler.task
        def held():
            open(os.environ["GATES"] + "/begun", "w").close()
            hold("one")
            os.kill(os.getpid(), signal.SIGKILL)
    """)
    place.gate("one")
    place.call("quick(); held()")
    running = place.run()
    running.wait_for_verdict("processed", "quick")
    place.wait_for_line("begun one")
    (worker,) = [info for info in place.backend.live() if info.role == "worker"]
    (task,) = inspection.tasks(place.backend)
    assert task.id.endswith(f"/{worker.ref}")
    place.open_gate("one")
    crashed = running.wait_for_verdict("crashed", "held")
    assert crashed["worker"] == worker.pid
    running.signal(signal.SIGQUIT)
    assert running.end() == 0


def test_a_result_that_is_none_fails_its_task_alone(place: Place) -> None:
    """A result with an exception that is not one, given or set by a subclass, is an error of this run, and the worker
    lives.
    """
    place.write_app("""
        class Odd(ResultSkipped):
            def __init__(self): self.exception = "odd"
        class Bare(ResultProcessed):
            def __init__(self): pass
        @Spooler.task(max_attempts=1)
        def given(): return ResultRescheduled(exception="oops")
        @Spooler.task
        def own(): return Odd()
        @Spooler.task
        def bare(): return Bare()
    """)
    place.call("given(); own(); bare()")
    running = place.burst()
    assert running.verdicts() == ["dead", "skipped", "processed"]
    assert len({line["worker"] for line in running.seen if "worker" in line}) == 1
    reason = "TypeError: ResultRescheduled was given exception='oops', which is not an exception"
    assert [entry.reason for entry in inspection.tasks(place.backend)] == [reason]
    odd = next(record for record in inspection.runs(place.backend) if record.task == "tasks:own")
    assert odd.error == "TypeError: the task's result has exception='odd', which is not an exception"


def test_programs_that_tasks_start_can_be_interrupted(place: Place) -> None:
    """SIGINT and SIGHUP, which workers leave to their supervisor, are not ignored in programs that a task starts."""
    place.write_app("""
        import subprocess
        @Spooler.task
        def look():
            lines = subprocess.run(["cat", "/proc/self/status"], capture_output=True, text=True).stdout.splitlines()
            ignored = next(int(line.split()[1], 16) for line in lines if line.startswith("SigIgn"))
            note([number for number in (signal.SIGINT, signal.SIGHUP) if ignored >> (number - 1) & 1])
            for number in (signal.SIGINT, signal.SIGHUP):
                os.kill(os.getpid(), number)
            return True
    """)
    place.call("look()")
    assert place.burst().verdicts() == ["processed"]
    assert place.lines() == ["[]"]
