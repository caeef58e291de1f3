"""Inside real uWSGI: its spooler processes run the tasks in each of its modes, with the same verdicts."""

import pytest

from unspool import inspection, wire
from unspool.message import State

from . import table
from .instance import Instance, require

MODES = {
    "one process": (),
    "two processes": ("--spooler-processes=2",),
    "ordered, two processes": ("--spooler-processes=2", "--spooler-ordered"),
    "cheap": ("--spooler-cheap",),
    "cheap and ordered": ("--spooler-cheap", "--spooler-ordered"),
    "elsewhere": ("--spooler-chdir=/",),
}

SEED = """
my_spooler = Spooler.get_by_basename('myspooler')

# @Spooler.task() to  run on first available or to run on `my_spooler`:
@my_spooler.task(postpone=timedelta(seconds=1))
def run_me(a, b='c'):
    # We do:
    # * return True if task processed
    # * return None if task was ignored
    # * raise an exception to force task retry
    note("run_me", a, b, time.time())
    return True
"""


@pytest.mark.parametrize("mode", [*MODES, "several spoolers", "unspool run"])
def test_the_table_of_verdicts(instance: Instance, mode: str) -> None:
    """Each row has the same end in each of uWSGI's modes and without uWSGI. Failures are in uWSGI's log, one line each,
    although the program does not configure logging.
    """
    instance.write_app(table.APP)
    if mode == "unspool run":
        instance.start_unspool("--processes=2")
        ids = instance.call("send_all()")
    else:
        require(*MODES.get(mode, ()))
        several = ("other", "myspooler") if mode == "several spoolers" else ("myspooler",)
        instance.start(*MODES.get(mode, ()), spoolers=several)
        ids = instance.do("send_all()")
    ids["altered"] = str(instance.drop("altered", bytes(table.ALTERED)))
    table.wait_and_check(instance.backend, ids, instance.lines, instance.wait)
    if mode != "unspool run":
        log = instance.log.read_text().splitlines()
        for name, ends in table.VERDICTS.items():
            for verdict in {"dead", "crashed", "corrupt"} & set(ends):
                told = [line for line in log if f" {verdict} " in line and f"({ids[name]})" in line]
                assert len(told) == ends.count(verdict), (name, verdict, log)


@pytest.mark.parametrize("place", ["unspool", "uwsgiconf.runtime.spooler"])
def test_the_seeds_example_as_it_stands(instance: Instance, place: str) -> None:
    """It runs in real uWSGI with both imports, once, and not before its time."""
    instance.write_app(f"from {place} import Spooler\n{SEED}")
    instance.start()
    instance.do("sent = time.time()\nrun_me('some', b='other')")
    instance.wait(instance.lines)
    (line,) = instance.lines()
    name, a, b, ran = line.split()
    assert (name, a, b) == ("run_me", "some", "other")
    assert float(ran) - instance.do("sent") >= 1.0


def test_postponed_tasks_never_run_early(instance: Instance) -> None:
    """uWSGI compares whole seconds. A due time with a fraction is still respected, however it is given."""
    instance.write_app(
        """
        from unspool import Spooler
        @Spooler.task
        def late(kind, due):
            note(kind, time.time() - due)
            return True
        def send():
            now = time.time()
            due = [now + 0.3 + n / 10 for n in range(9)]
            for when in due:
                late.using(postpone=timedelta(seconds=when - time.time()))("timedelta", time.time())
                late.using(postpone=datetime.fromtimestamp(when, timezone.utc))("aware", when)
                late.using(postpone=datetime.fromtimestamp(when))("naive", when)
                late.using(postpone=datetime.fromtimestamp(when), priority=3)("priority", when)
        """
    )
    instance.start("--spooler-processes=2")
    instance.do("send()")
    instance.wait(lambda: len(instance.lines()) == 36)
    assert {line.split()[0] for line in instance.lines()} == {"timedelta", "aware", "naive", "priority"}
    assert all(float(line.split()[1]) >= 0 for line in instance.lines())


def test_uwsgis_time_limit_is_for_one_task(instance: Instance) -> None:
    """A task that overruns harakiri is killed and counted, three times. Short tasks with a priority, which the handler
    runs one after the other, each have their own time.
    """
    instance.write_app(
        """
        import threading
        from unspool import Spooler
        @Spooler.task
        def hangs():
            note("hangs")
            threading.Event().wait()
        @Spooler.task(priority=2)
        def takes(seconds):
            threading.Event().wait(seconds)
            note("takes")
            return True
        def send():
            for n in range(6):
                takes(0.6)
            return hangs()
        """
    )
    instance.start("--spooler-harakiri=1", "--spooler-processes=2")
    id = instance.do("send()")
    instance.wait(lambda: instance.verdicts(id)[-1:] == ["dead"])
    assert instance.verdicts(id) == ["crashed", "crashed", "crashed", "dead"]
    assert instance.lines().count("hangs") == 3
    assert instance.lines().count("takes") == 6
    assert {record.verdict for record in inspection.runs(instance.backend) if record.id != id} == {"processed"}


def test_whole_files_from_mules_and_threads(instance: Instance) -> None:
    """Several processes with several threads each send tasks of many sizes at once: each is complete, and runs once."""
    instance.write_app(
        """
        import threading
        from unspool import Spooler
        @Spooler.task
        def measured(number, text):
            assert text == str(number % 10) * (number * 97 % 70_000)
            note("measured", number)
            return True
        def send(start):
            def some(first):
                for number in range(first, first + 25):
                    task = measured.using(priority=number % 3) if number % 4 == 0 else measured
                    task(number, str(number % 10) * (number * 97 % 70_000))
            threads = [threading.Thread(target=some, args=(start + 25 * n,)) for n in range(4)]
            for thread in threads: thread.start()
            for thread in threads: thread.join()
        """
    )
    (instance.root / "sender.py").write_text(
        "import app, uwsgi\napp.send(uwsgi.mule_id() * 1000)\nuwsgi.mule_get_msg()\n"
    )
    senders = [f"--mule={instance.root / 'sender.py'}"] * 2
    instance.start("--enable-threads", "--spooler-processes=2", *senders)
    instance.do("send(0)")
    instance.wait(lambda: len(instance.lines()) >= 300 and not list(inspection.tasks(instance.backend)))
    numbers = sorted(int(line.split()[1]) for line in instance.lines())
    assert len(numbers) == 300
    assert len(set(numbers)) == 300
    assert {record.verdict for record in inspection.runs(instance.backend, limit=1000)} == {"processed"}


def test_what_uwsgi_does_before_anybody_is_asked(instance: Instance) -> None:
    """Of files that other programs have left truncated, uWSGI ignores the shortest, and deletes those with incomplete
    variables without calling unspool. Plain uWSGI runs a truncated body. Tasks of unspool are sealed, and are set
    aside.
    """
    whole = wire.dump({"msg": b"ucfg_fcall"}, b"x" * 100, None)
    instance.write_app(
        """
        from unspool import Spooler
        @Spooler.task
        def mark():
            note("mark")
        """
    )
    instance.start()
    variables = instance.drop("variables", whole[:20])
    body = instance.drop("body", whole[:-1])
    instance.wait(lambda: not variables.exists() and not body.exists())
    assert [record.id for record in inspection.runs(instance.backend)] == [str(body)]
    corrupt = inspection.find(instance.backend, str(body))
    assert corrupt is not None
    assert corrupt.state is State.CORRUPT
    short = instance.drop("short", whole[:3])  # only now: we set it aside when it is as old as the others were
    instance.do("mark()")
    instance.wait_for_line("mark")
    assert short.exists()


def test_a_task_larger_than_memory(instance: Instance) -> None:
    """unspool finds it where uWSGI itself does not look: it is dead after three attempts to read it, also if the
    program has its own handler, and other tasks run.
    """
    instance.write_app(
        """
        from unspool import Spooler
        if "uwsgi" in sys.modules:
            import resource, uwsgi
            used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (used + (60 << 20), -1))
            uwsgi.spooler = lambda variables: note("handed on") or uwsgi.SPOOL_OK
        @Spooler.task(priority=1)
        def large(data):
            note("large")
        @Spooler.task
        def mark():
            note("mark")
            return True
        """
    )
    id = instance.call("large(b'x' * (45 << 20))")
    instance.start()
    instance.do("mark()")
    instance.wait(lambda: instance.verdicts(id)[-1:] == ["dead"])
    instance.wait_for_line("mark")
    assert instance.lines() == ["mark"]
    assert "does not fit into the memory of" in instance.log.read_text()


def test_a_task_that_removes_its_own_file(instance: Instance) -> None:
    """uWSGI's spooler would exit if it could not remove a finished task. It does not have to."""
    instance.write_app(
        """
        from unspool import Spooler, SpoolerTask
        class Gone(SpoolerTask):
            type_id = "gone"
            def process(self):
                os.unlink(self.name)
                note("gone")
                return True
        """
    )
    instance.start()
    pids = instance.pids()
    for _ in range(2):
        instance.do("Spooler.send_message_raw('ucfg_gone')")
    instance.wait_for_line("gone", 2)
    instance.wait(lambda: len(inspection.runs(instance.backend)) == 2)
    assert instance.pids() == pids
    assert "horrible" not in instance.log.read_text()


def test_a_pause_holds_for_uwsgi_too(instance: Instance) -> None:
    """During a pause, tasks that uWSGI offers do not run. They run when the pause ends."""
    instance.write_app(
        """
        from unspool import Spooler, registry
        @Spooler.task
        def mark():
            note("mark")
            return True
        """
    )
    instance.start(quiet=False)
    instance.backend.switch(paused=True)
    instance.do("mark()")
    instance.wait(lambda: "managing request" in instance.log.read_text())
    instance.wait(lambda: instance.log.read_text().count("managing request") > 1)
    assert instance.lines() == []
    instance.do("registry.backend().switch(paused=False)")
    instance.wait_for_line("mark")


def test_a_task_that_pauses_is_the_last(instance: Instance) -> None:
    """The due tasks behind it wait, although its process has just checked whether there is a pause."""
    instance.write_app(
        """
        from unspool import Spooler, registry
        @Spooler.task
        def mark(n):
            note("mark", n)
            return True
        @Spooler.task
        def pauses():
            registry.backend().switch(paused=True)
            note("paused")
            return True
        """
    )
    instance.start(quiet=False)
    instance.backend.switch(paused=True)
    instance.do("mark(1)\npauses()\nmark(2)")
    instance.do("registry.backend().switch(paused=False)")
    instance.wait_for_line("paused")
    offered = instance.log.read_text().count("managing request")
    instance.wait(lambda: instance.log.read_text().count("managing request") > offered + 1)
    assert instance.lines() == ["mark 1", "paused"]
    instance.do("registry.backend().switch(paused=False)")
    instance.wait_for_line("mark 2")


def test_stopping_uwsgi_in_mid_task_loses_nothing(instance: Instance) -> None:
    """uWSGI kills its spoolers when it stops. The task runs again at the next start, and the kill counts as a crash."""
    instance.write_app(
        """
        from unspool import Spooler
        @Spooler.task
        def held():
            hold("gate")
            note("held")
            return True
        """
    )
    instance.gate("gate")
    instance.start()
    id = instance.do("held()")
    instance.wait_for_line("begun gate")
    instance.stop()
    found = inspection.find(instance.backend, id)
    assert found is not None
    assert (found.state, found.attempts) == (State.READY, 1)
    instance.start()
    instance.wait_for_line("begun gate", 2)
    instance.open_gate("gate")
    instance.wait(lambda: instance.verdicts(id) == ["crashed", "processed"])


def test_a_task_that_is_due_is_run_without_a_scan(instance: Instance) -> None:
    """Sending wakes the spoolers, also a busy one: with uWSGI alone, the task would wait for the next scan."""
    instance.write_app(
        """
        from unspool import Spooler
        @Spooler.task
        def held():
            hold("gate")
        @Spooler.task
        def mark():
            note("mark")
        """
    )
    instance.gate("gate")
    instance.start(frequency=3600)
    instance.do("held()")
    instance.wait_for_line("begun gate")
    instance.do("mark()")
    instance.open_gate("gate")
    instance.wait_for_line("mark")


@pytest.mark.parametrize("options", [(), ("--spooler-ordered",), ("--spooler-harakiri=600",)])
def test_first_in_first_out(instance: Instance, options: tuple[str, ...]) -> None:
    """The order does not depend on the order of the directory, nor on whether a call may run one task or all."""
    instance.write_app(
        """
        from unspool import Spooler, registry
        @Spooler.task
        def mark(n):
            note("mark", n)
            return True
        """
    )
    instance.start(*options)
    instance.backend.switch(paused=True)
    instance.do("[mark(n) for n in range(30)]")
    instance.do("registry.backend().switch(paused=False)")
    instance.wait(lambda: len(instance.lines()) == 30)
    assert instance.lines() == [f"mark {n}" for n in range(30)]


def test_wake_ups_that_come_during_a_task_are_one(instance: Instance) -> None:
    """uWSGI counts signals, and would read the directory once for each. While a task runs, the kernel merges them. A
    process that the task forks gets its own.
    """
    instance.write_app(
        """
        from unspool import Spooler
        def blocked():
            return signal.SIGUSR1 in signal.pthread_sigmask(signal.SIG_BLOCK, [])
        @Spooler.task
        def looks():
            child = os.fork()
            if child == 0:
                os._exit(blocked())
            _, status = os.waitpid(child, 0)
            note("blocked", blocked(), "in a child", bool(os.waitstatus_to_exitcode(status)))
            return True
        """
    )
    instance.start()
    for times in (1, 2):
        instance.do("looks()")
        instance.wait_for_line("blocked True in a child False", times)


def test_its_processes_are_seen_from_outside(instance: Instance) -> None:
    """Processes that have run a task are listed as workers, with the current task, and no longer after uWSGI
    has ended.
    """
    instance.write_app(
        """
        from unspool import Spooler
        @Spooler.task
        def held():
            hold("gate")
            return True
        """
    )
    instance.gate("gate")
    instance.start()
    id = instance.do("held()")
    instance.wait_for_line("begun gate")
    (worker,) = instance.backend.live()
    assert (worker.role, worker.pid, f"{instance.spool}/{worker.ref}") == ("worker", *instance.pids(), id)
    assert instance.do("Spooler.get_pids()") == instance.pids()
    instance.open_gate("gate")
    instance.wait(lambda: inspection.find(instance.backend, id) is None)
    instance.stop()
    assert instance.backend.live() == []


def test_the_coroutines_of_a_process_share_one_event_loop(instance: Instance) -> None:
    """Objects that belong to the loop can be used by the next coroutine, and asyncio tasks of an earlier one continue.
    There is a new loop only after a coroutine has ended the loop or overrun.
    """
    instance.write_app(
        """
        from unspool import Spooler
        loops = []
        async def leave(): sys.exit(3)
        @Spooler.task(timeout=1, max_attempts=1)
        async def look(kind):
            loop = asyncio.get_running_loop()
            loops.append(loop) if loop not in loops else None
            note(kind, loops.index(loop))
            if kind == "overruns": await asyncio.sleep(3600)
            if kind == "blocks": time.sleep(3600)
            if kind == "exits": raise SystemExit
            if kind == "stops": loop.stop(); await asyncio.sleep(3600)
            if kind == "child": child = asyncio.create_task(leave()); await asyncio.sleep(3600)
            return True
        def send():
            kinds = ["a", "b", "exits", "blocks", "c", "overruns", "d", "stops", "e", "child", "f"]
            return [look.using(priority=at)(kind) for at, kind in enumerate(kinds)]
        """
    )
    instance.start()
    ids = instance.do("send()")
    instance.wait(lambda: len(instance.lines()) == len(ids) and instance.verdicts(ids[-1]) == ["processed"])
    found = [line.split() for line in instance.lines()]
    same = [["a", "0"], ["b", "0"], ["exits", "0"], ["blocks", "0"], ["c", "0"], ["overruns", "0"]]
    assert found == [*same, ["d", "1"], ["stops", "1"], ["e", "2"], ["child", "2"], ["f", "3"]]
    assert [instance.verdicts(id) for id in ids] == [["processed"] if len(kind) == 1 else ["dead"] for kind, _ in found]


def test_a_configuration_of_logging_does_not_silence_failures(instance: Instance) -> None:
    """By default, ``dictConfig`` disables all loggers that it does not name. The end of a dead task is still logged."""
    instance.write_app(
        """
        import logging.config
        from unspool import Spooler
        logging.config.dictConfig(
            {"version": 1, "handlers": {"c": {"class": "logging.StreamHandler"}}, "root": {"handlers": ["c"]}}
        )
        @Spooler.task(max_attempts=1)
        def fail():
            raise ValueError("order 17 failed")
        """
    )
    instance.start()
    instance.do("fail()")
    instance.wait(lambda: "ValueError: order 17 failed" in instance.log.read_text())


def test_a_process_that_uwsgi_has_forked(instance: Instance) -> None:
    """uWSGI forks without Python. A process that it forks after the program has used the spooler sends under its own
    name, and does not keep an ephemeral item of the master alive."""
    instance.write_app(
        """
        from unspool import Spooler, registry
        from unspool.backends.keyvalue import EPHEMERAL
        @Spooler.task
        def mark(*words):
            note("mark", *words)
            return True
        def kept():
            links = ("/proc/self/fd/" + fd for fd in os.listdir("/proc/self/fd"))
            return sum("/.unspool/kv/" in os.readlink(link) for link in links if os.path.islink(link))
        def sender(id):
            return int(id.split("_")[-5])
        table = registry.backend().kv
        assert table.put("alive", b"", life=EPHEMERAL)
        master, first = os.getpid(), mark("sent while the program is imported")
        """
    )
    instance.start()
    assert instance.do("os.getpid() != master and sender(first) == master")
    assert instance.do("sender(mark('sent by a fork')) == os.getpid()")
    assert instance.do("kept()") == 0
    assert instance.do("table.get(['alive'])[0] is not None")
    instance.wait(lambda: len(instance.lines()) == 2)
