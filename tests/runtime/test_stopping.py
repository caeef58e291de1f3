"""How a supervisor starts, stops, reloads and survives: signals, kills, broken applications."""

import contextlib
import os
import random
import re
import resource
import shutil
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from unspool import codec, inspection
from unspool.backends.spool import SpoolBackend
from unspool.functions import call_message
from unspool.message import State
from unspool.testing.exchange import sealed

from .conftest import PATIENCE, Place

HOLDING = """
    @Spooler.task
    def held(name): hold(name); note("ended", name); return True
    @Spooler.task
    def mark(n): note(n); return True
"""


def test_term_lets_the_running_task_end_and_starts_no_other(place: Place) -> None:
    """After TERM, the running task finishes, the others stay ready without a counted attempt, and the status is 0."""
    place.write_app(HOLDING)
    place.gate("one")
    place.call("held('one'); [mark(n) for n in range(50)]")
    running = place.run()
    place.wait_for_line("begun one")
    running.signal(signal.SIGTERM)
    running.wait_for_message("stopping after the running tasks")
    place.open_gate("one")
    assert running.end() == 0
    assert place.lines() == ["begun one", "ended one"]
    waiting = list(inspection.tasks(place.backend))
    assert [entry.state for entry in waiting] == [State.READY] * 50
    assert {entry.attempts for entry in waiting} == {0}


def test_term_lets_coroutines_end_and_starts_no_other(place: Place) -> None:
    """The maximum number of coroutines run. Those that wait behind them are still ready when they have ended."""
    place.write_app("""
        @Spooler.task
        async def held(n):
            note("begun", n)
            while not os.path.exists(os.environ["GATES"] + "/open"):
                await asyncio.sleep(0.01)
            note("ended", n)
            return True
    """)
    place.call("[held(n) for n in range(5)]")
    running = place.run("--concurrency", "2")
    place.wait_for_line("begun 0")
    place.wait_for_line("begun 1")
    running.signal(signal.SIGTERM)
    running.wait_for_message("stopping")
    (place.gates / "open").touch()
    assert running.end() == 0
    assert sorted(place.lines()) == ["begun 0", "begun 1", "ended 0", "ended 1"]
    assert place.backend.counts().tasks == {**dict.fromkeys(State, 0), State.READY: 3}


def test_a_second_signal_stops_at_once(place: Place) -> None:
    """A task that does not end is killed at the second TERM. It is not lost, and its attempt counts."""
    place.write_app(HOLDING)
    place.gate("one")
    place.call("held('one')")
    running = place.run()
    place.wait_for_line("begun one")
    running.signal(signal.SIGINT)
    running.wait_for_message("stopping after")
    running.signal(signal.SIGTERM)
    assert running.end() == 0
    (entry,) = inspection.tasks(place.backend)
    assert (entry.state, entry.attempts) == (State.READY, 1)


def test_quit_stops_at_once(place: Place) -> None:
    """QUIT does not wait for the running task."""
    place.write_app(HOLDING)
    place.gate("one")
    place.call("held('one')")
    running = place.run()
    place.wait_for_line("begun one")
    running.signal(signal.SIGQUIT)
    assert running.end() == 0
    assert place.backend.counts().tasks[State.READY] == 1


def test_term_to_a_worker_ends_it_after_its_task(place: Place) -> None:
    """A worker that gets TERM, as from a service manager that signals the whole group, ends its task and is
    replaced.
    """
    place.write_app(
        HOLDING + "    @Spooler.task\n    def term(): os.kill(os.getpid(), signal.SIGTERM); note('term'); return True\n"
    )
    place.call("term(); mark(1)")
    running = place.burst()
    assert place.lines() == ["term", "1"]
    assert len({line["worker"] for line in running.seen if "worker" in line}) == 2


def test_hup_brings_fresh_workers_beside_the_old(place: Place) -> None:
    """While an old worker is busy, new ones already run the new code. The old task ends normally."""
    place.write_app(
        HOLDING + "    VERSION = 1\n    @Spooler.task\n    def version(): note('version', VERSION); return True\n"
    )
    place.gate("one")
    place.call("held('one')")
    running = place.run()
    place.wait_for_line("begun one")
    source = (place.root / "tasks.py").read_text()
    (place.root / "tasks.py").write_text(source.replace("VERSION = 1", "VERSION = 22"))
    running.signal(signal.SIGHUP)
    running.wait_for_message("reloaded")
    place.call("version()")
    running.wait_for_verdict("processed", "version")
    place.open_gate("one")
    running.wait_for_verdict("processed", "held")
    assert running.stop() == 0
    assert place.lines() == ["begun one", "version 22", "ended one"]


def test_hup_with_a_broken_application_keeps_the_old_workers(place: Place) -> None:
    """A deploy that cannot be imported is logged and changes nothing. The next one that can be is used."""
    place.write_app(HOLDING)
    running = place.run()
    place.call("mark(1)")
    running.wait_for_verdict("processed")
    good = (place.root / "tasks.py").read_text()
    (place.root / "broken.py").write_text("")
    (place.root / "tasks.py").write_text("import broken\n1 / 0\n")
    running.signal(signal.SIGHUP)
    line = running.wait_for(lambda line: "the old workers continue" in line["message"])
    assert "tasks.py:2: ZeroDivisionError" in line["message"]
    (place.root / "tasks.py").write_text(good)
    place.call("mark(2)")
    running.wait_for_verdict("processed")
    running.signal(signal.SIGHUP)
    running.wait_for_message("reloaded")
    assert running.stop() == 0
    assert place.lines() == ["1", "2"]


WAITING = """
    if os.path.exists("gate"):
        note("importing")
        open("gate").read()
"""


def test_a_hanging_import_is_replaced_by_the_next_reload(place: Place) -> None:
    """New code that hangs on import leaves the old workers running. Another HUP imports again, and TERM does not wait
    for an import either.
    """
    place.write_app(HOLDING + WAITING)
    running = place.run()
    running.wait_for_message("started")
    os.mkfifo(place.root / "gate")
    running.signal(signal.SIGHUP)
    place.wait_for_line("importing")
    place.backend.send([sealed(codec.encode(call_message("tasks:mark", (1,), {})))])
    running.wait_for_verdict("processed")
    (place.root / "gate").unlink()
    running.signal(signal.SIGHUP)
    running.wait_for_message("reloading, in place of an unfinished reload")
    running.wait_for_message("reloaded")
    os.mkfifo(place.root / "gate")
    running.signal(signal.SIGHUP)
    place.wait_for_line("importing", times=2)
    assert running.stop() == 0
    assert not [line for line in running.seen if line["level"] == "ERROR"]


def test_a_slow_import_is_told_once(place: Place) -> None:
    """If a program starts its server when it is imported, a line says that the import takes long, once per reload."""
    place.write_app(HOLDING + WAITING)
    os.mkfifo(place.root / "gate")
    running = place.run("--processes", "2", "--slow-import", "0.1")
    for _ in range(2):
        line = running.wait_for_message("worker")
        assert re.fullmatch(r"worker \d+ is still importing app tasks.py after 0.1 s; .*", line["message"])
        running.signal(signal.SIGHUP)
    place.wait_for_line("importing", times=4)
    assert running.stop() == 0
    assert len([line for line in running.seen if "still importing" in line["message"]]) <= 3


def test_term_does_not_wait_for_the_first_import(place: Place) -> None:
    """The same holds for the first workers."""
    place.write_app(HOLDING + WAITING)
    os.mkfifo(place.root / "gate")
    running = place.run()
    place.wait_for_line("importing")
    assert running.stop() == 0
    assert running.seen[-1]["message"] == "stopped: 0 tasks run"


def test_a_change_while_a_reload_hangs_is_not_missed(place: Place) -> None:
    """With --reload, a file that is saved while an import hangs starts another reload."""
    place.write_app(HOLDING + WAITING)
    running = place.run("--reload")
    running.wait_for_message("started")
    os.mkfifo(place.root / "gate")
    os.utime(place.root / "tasks.py", (1, 1))
    place.wait_for_line("importing")
    (place.root / "gate").unlink()
    os.utime(place.root / "tasks.py", (2, 2))
    running.wait_for_message("reloaded")
    assert running.stop() == 0


def test_reload_on_change(place: Place) -> None:
    """With --reload, saving a file of the application is enough."""
    place.write_app("VERSION = 1\n@Spooler.task\ndef version(): note('version', VERSION); return True\n")
    running = place.run("--reload")
    place.call("version()")
    running.wait_for_verdict("processed")
    source = (place.root / "tasks.py").read_text()
    (place.root / "tasks.py").write_text(source.replace("VERSION = 1", "VERSION = 22"))
    running.wait_for_message("reloaded")
    place.call("version()")
    running.wait_for_verdict("processed")
    assert running.stop() == 0
    assert place.lines() == ["version 1", "version 22"]


def test_reload_on_change_of_an_application_from_elsewhere(place: Place) -> None:
    """The application's own file and those beside it are watched, wherever the worker was started."""
    away = place.root / "away"
    away.mkdir()
    (away / "beside.py").write_text("VERSION = 1\n")
    place.write_app("import beside\n@Spooler.task\ndef version(): note('version', beside.VERSION); return True\n")
    (place.root / "tasks.py").rename(away / "tasks.py")
    here = place.root / "here"
    here.mkdir()
    place.app, place.root = str(away / "tasks.py"), here
    running = place.run("--reload")
    running.wait_for_message("started")
    (away / "beside.py").write_text("VERSION = 22\n")
    running.wait_for_message("reloaded")
    os.utime(away / "tasks.py", (1, 1))
    running.wait_for_message("reloaded")
    assert running.stop() == 0


def test_an_application_that_does_not_import_stops_the_start(place: Place) -> None:
    """One line names the file, the line and the error, and nothing runs."""
    (place.root / "tasks.py").write_text("import os\n\nraise RuntimeError('no database')\n")
    running = place.run()
    assert running.end() == 1
    assert running.complaints[-1].endswith("tasks.py:3: RuntimeError: no database\n")


@pytest.mark.parametrize(
    ("statement", "error"),
    [
        ("raise KeyboardInterrupt", "KeyboardInterrupt: "),
        ("raise SystemExit(3)", "SystemExit: 3: it calls sys.exit[(][)], .*"),
    ],
)
def test_an_application_that_leaves_while_imported_stops_the_start(place: Place, statement: str, error: str) -> None:
    """An import that would end the program fails like any other."""
    (place.root / "tasks.py").write_text(f"import os\n\n{statement}\n")
    running = place.run()
    assert running.end() == 1
    assert re.search(rf"tasks\.py:3: {error}\n$", running.complaints[-1])


def test_an_application_without_tasks_is_warned_of(place: Place) -> None:
    """A module that defines no task, such as a directory that was taken for a module, is reported as a probable
    mistake.
    """
    (place.root / "tasks.py").write_text("import unspool")
    running = place.burst()
    assert any(line["message"].startswith("app tasks.py defines no task") for line in running.seen)
    place.write_app(HOLDING)
    assert not any("defines no task" in line["message"] for line in place.burst().seen)


@pytest.mark.parametrize(
    ("death", "how"),
    [
        ("os.kill(os.getpid(), signal.SIGKILL)", "was killed by SIGKILL"),
        ("os.kill(os.getpid(), signal.SIGSEGV)", "was killed by SIGSEGV"),
        ("os._exit(0)", "ended with status 0"),
        ("os._exit(2)", "ended with status 2"),
    ],
)
def test_the_first_workers_die_while_they_import(place: Place, death: str, how: str) -> None:
    """This is not a mistake of the application, as with the out-of-memory killer: the import is retried with growing
    delays and a line each, until it works. The tasks then run.
    """
    place.write_app(
        HOLDING
        + f"""
    tries = len(os.listdir("tries"))
    if tries < 4:
        open(f"tries/{{tries}}", "w").close()
        {death}
"""
    )
    (place.root / "tries").mkdir()
    place.backend.send([sealed(codec.encode(call_message("tasks:mark", (1,), {})))])
    running = place.run()
    running.wait_for_verdict("processed")
    assert running.stop() == 0
    lines = [re.sub(r"\d+", "N", line["message"], count=1) for line in running.seen if line["level"] == "ERROR"]
    said = f"worker N {how} while it imported the application"
    assert lines == [said, *(f"{said}; trying again in {pause} s" for pause in ("0.2", "0.4", "0.8"))]


def test_term_while_the_first_workers_die(place: Place) -> None:
    """There is no worker, and none was ever ready: TERM still stops the command."""
    (place.root / "tasks.py").write_text("import os\nos._exit(1)\n")
    running = place.run()
    for _ in range(3):
        running.wait_for_message("worker")
    assert running.stop() == 0


def test_a_killed_worker_loses_nothing(place: Place) -> None:
    """SIGKILL during a task: another worker runs the task again at once, and the log names it."""
    place.write_app(HOLDING)
    place.gate("one")
    place.call("held('one'); [mark(n) for n in range(20)]")
    running = place.run("--processes", "2")
    place.wait_for_line("begun one")
    for _ in range(20):
        running.wait_for_verdict("processed", "mark")
    (held,) = inspection.tasks(place.backend, frozenset({State.RUNNING}))
    holder = next(info for info in place.backend.live() if info.ref == os.path.basename(held.id))
    os.kill(holder.pid, signal.SIGKILL)
    crashed = running.wait_for_verdict("crashed")
    assert (crashed["task"], crashed["worker"]) == ("tasks:held", holder.pid)
    assert crashed["reason"] == "its worker was killed by SIGKILL"
    place.wait_for_line("begun one", times=2)
    place.open_gate("one")
    running.wait_for_verdict("processed", "held")
    assert running.stop() == 0
    assert Counter(place.lines())["ended one"] == 1
    assert sum(place.backend.counts().tasks.values()) == 0


def test_a_killed_supervisor_loses_nothing(place: Place) -> None:
    """Its worker finishes its task and stops. A new supervisor runs the rest, each task once."""
    place.write_app(HOLDING)
    place.gate("one")
    place.call("held('one'); [mark(n) for n in range(1000)]")
    running = place.run()
    place.wait_for_line("begun one")
    running.signal(signal.SIGKILL)
    running.process.wait(PATIENCE)
    place.open_gate("one")
    running.wait_for_last_process()
    left = place.backend.counts().tasks[State.READY]
    place.burst("--processes", "2")
    numbers = [int(line) for line in place.lines() if line.isdigit()]
    assert sorted(numbers) == list(range(1000))
    assert place.lines()[:2] == ["begun one", "ended one"]
    assert 0 < left <= 1000


ORPHANS = """
    @Spooler.task(max_attempts=1)
    def fail(name): hold(name); raise ValueError("no luck")
    @Spooler.task(retry_delay=3600)
    async def wait(name):
        note("begun", name)
        await asyncio.to_thread(lambda: open(os.environ["GATES"] + "/" + name).read())
        raise ValueError("later")
    @Spooler.task
    def held(name):
        logging.config.dictConfig({"version": 1})  # which disables the loggers that there are
        hold(name)
        return True
"""


def test_the_ends_of_orphaned_runs_are_told(place: Place) -> None:
    """Workers whose supervisor was killed log and record the ends of their runs: success, failure and coroutine. The
    next supervisor writes them into the database when it has something to write.
    """
    place.write_app("    import logging.config\n" + ORPHANS + HOLDING.replace("held", "other"))
    for name in ("one", "two", "three"):
        place.gate(name)
    place.call("held('one'); fail('two'); wait('three')")
    running = place.run("--processes", "3")
    for name in ("one", "two", "three"):
        place.wait_for_line(f"begun {name}")
    running.signal(signal.SIGKILL)
    running.process.wait(PATIENCE)
    for name in ("one", "two", "three"):
        place.open_gate(name)
    running.wait_for_last_process()
    with contextlib.suppress(AssertionError):
        running.wait_for_message("there is no such line")
    lines = {line["task"]: (line["verdict"], line["reason"]) for line in running.seen if "verdict" in line}
    expected = {
        "tasks:held": ("processed", ""),
        "tasks:fail": ("dead", "ValueError: no luck"),
        "tasks:wait": ("rescheduled", "ValueError: later"),
    }
    assert lines == expected
    assert {record.task: (record.verdict, record.reason) for record in inspection.runs(place.backend)} == expected
    place.call("mark(1)")
    place.burst()
    expected["tasks:mark"] = ("processed", "")
    assert {record.task: (record.verdict, record.reason) for record in inspection.runs(place.backend)} == expected
    assert not list(place.spool.glob(".unspool/journal-*"))


def test_two_supervisors_share_a_directory(place: Place) -> None:
    """Each of a thousand tasks runs once under two supervisors with two workers each."""
    place.write_app(HOLDING)
    place.call("mark.enqueue_many(range(1000))")
    both = [place.run("--burst", "--processes", "2") for _ in range(2)]
    assert [one.end() for one in both] == [0, 0]
    place.burst()  # what one of them was just holding when the other saw nothing more to do
    assert sorted(map(int, place.lines())) == list(range(1000))


def test_a_pause_is_heeded_at_once(place: Place) -> None:
    """The queue is paused during a task, with others handed out: the task finishes, and no other begins until the queue
    is resumed.
    """
    place.write_app(HOLDING)
    place.gate("one")
    place.call("held('one'); [mark(n) for n in range(30)]")
    running = place.run()
    place.wait_for_line("begun one")
    place.backend.switch(paused=True)
    running.wait_for_message(f"paused {place.spool}: no task is started until 'unspool resume --spooler {place.spool}'")
    place.open_gate("one")
    running.wait_for_verdict("processed", "held")
    assert running.stop() == 0
    assert place.lines() == ["begun one", "ended one"]
    stopped = f"stopped: 0 tasks run; {place.spool} is paused, with 30 ready"
    assert place.burst().seen[-1]["message"] == stopped
    assert len(place.lines()) == 2
    running = place.run()
    running.wait_for_message("paused")
    place.backend.switch(paused=False)
    running.wait_for_message(f"resumed {place.spool}")
    for _ in range(30):
        running.wait_for_verdict("processed", "mark")
    assert running.stop() == 0


def test_workers_are_recycled(place: Place) -> None:
    """With a limit of ten tasks per worker, fifty tasks need five workers. With a tiny memory limit, each task needs
    one.
    """
    place.write_app("@Spooler.task\ndef mark(): note(os.getpid()); return True")
    place.call("mark.enqueue_many([()] * 50)")
    place.burst("--max-tasks", "10")
    assert sorted(Counter(place.lines()).values()) == [10] * 5
    place.oracle.unlink()
    place.call("mark.enqueue_many([()] * 3)")
    place.burst("--max-memory", "1")
    assert sorted(Counter(place.lines()).values()) == [1] * 3


def test_live_processes_are_known(place: Place) -> None:
    """get_pids() returns exactly the workers, in any process, and none after they have ended."""
    place.write_app(HOLDING)
    running = place.run("--processes", "3")
    place.call("mark(1)")
    running.wait_for_verdict("processed")
    place.call("note('pids', *Spooler.get_pids())")
    pids = {int(word) for word in place.lines()[-1].split()[1:]}
    live = place.backend.live()
    assert pids == {info.pid for info in live if info.role == "worker"}
    assert len(pids) == 3
    assert {info.pid for info in live if info.role == "supervisor"} == {running.process.pid}
    assert running.stop() == 0
    assert place.backend.live() == []


def move_away(spool: Path) -> None:
    """Rename a directory."""
    spool.rename(spool.with_name("elsewhere"))


def remove(spool: Path) -> None:
    """Remove a directory in which other processes create files meanwhile."""
    while spool.exists():
        shutil.rmtree(spool, ignore_errors=True)


@pytest.mark.parametrize("how", [move_away, remove])
def test_a_removed_directory_is_told_and_survived(place: Place, how: Callable[[Path], object]) -> None:
    """The spooler is moved or removed under the workers: they log it, and run new tasks when it is back."""
    place.write_app(HOLDING)
    running = place.run()
    place.call("mark(1)")
    running.wait_for_verdict("processed")
    how(place.spool)
    running.wait_for(lambda line: line["message"] == f"spooler {place.spool} was removed; continuing when it is back")
    place.call("mark(2)")
    second = running.wait_for_verdict("processed")
    place.call("mark(3)")  # by an event of the new directory: its period is far off
    third = running.wait_for_verdict("processed")
    held = [os.readlink(fd) for fd in Path(f"/proc/{running.process.pid}/fd").iterdir() if fd.is_symlink()]
    assert not [path for path in held if path.endswith(" (deleted)") or path.startswith(f"{place.root}/elsewhere")]
    assert running.stop() == 0
    assert place.lines() == ["1", "2", "3"]
    levels = {line["message"]: line["level"] for line in running.seen}
    gone, back = f"spooler {place.spool} was removed; continuing when it is back", f"spooler {place.spool} is back"
    assert (levels[gone], levels[back]) == ("WARNING", "WARNING")
    assert {record.id for record in inspection.runs(SpoolBackend(str(place.spool)))} >= {second["id"], third["id"]}


def test_a_directory_moved_away_and_back_shows_its_workers(place: Place) -> None:
    """Exactly the processes that serve a directory are listed, also if another directory has its name meanwhile."""
    place.write_app(HOLDING)
    away = place.root / "away"
    running = place.run("--processes", "2")
    running.wait_for_message("started")
    for between in (False, True):
        place.spool.rename(away)
        running.wait_for_message(f"spooler {place.spool} was removed")
        if between:
            place.spool.mkdir(mode=0o700)
            running.wait_for_message("reloaded")
            place.spool.rename(place.root / "between")
        away.rename(place.spool)
        running.wait_for_message(f"spooler {place.spool} is back")
        running.wait_for_message("reloaded")
    place.call("mark(1)")
    worker = running.wait_for_verdict("processed")["worker"]
    live = SpoolBackend(str(place.spool)).live()
    assert worker in {info.pid for info in live if info.role == "worker"}
    assert {info.pid for info in live if info.role == "supervisor"} == {running.process.pid}
    assert running.stop() == 0
    assert SpoolBackend(str(place.spool)).live() == []


def test_several_spoolers_under_one_supervisor(place: Place) -> None:
    """One supervisor serves two directories, and drains both."""
    place.write_app(HOLDING)
    other = place.root / "other"
    place.env["UNSPOOL_SPOOLERS"] = f"{place.spool},{other}"
    place.call("[mark(n) for n in range(50)]; [mark.using(spooler='other')(n) for n in range(50, 100)]")
    assert len(list(other.glob("uwsgi_spoolfile_on_*"))) == 50
    place.burst("--processes", "2")
    assert sorted(map(int, place.lines())) == list(range(100))


def test_term_while_workers_wait_to_be_replaced(place: Place) -> None:
    """The application breaks on disk and the only worker dies: new ones are started with growing delays, and TERM still
    stops.
    """
    place.write_app(HOLDING)
    place.call("mark(1)")
    running = place.run()
    worker = running.wait_for_verdict("processed")["worker"]
    (place.root / "tasks.py").write_text("1 / 0")
    os.kill(worker, signal.SIGKILL)
    for _ in range(4):
        running.wait_for(lambda line: "ZeroDivisionError" in line["message"])
    assert running.stop() == 0


def test_a_killed_recorder_is_replaced(place: Place) -> None:
    """A new process writes the history, and tasks do not notice."""
    place.write_app(HOLDING)
    running = place.run()
    place.call("mark(1)")
    running.wait_for_verdict("processed")
    children = (Path("/proc") / str(running.process.pid) / "task" / str(running.process.pid) / "children").read_text()
    workers = {info.pid for info in place.backend.live()}
    (recorder,) = {int(pid) for pid in children.split()} - workers
    os.kill(recorder, signal.SIGKILL)
    place.call("[mark(n) for n in range(2, 10)]")
    for _ in range(8):
        running.wait_for_verdict("processed")
    assert running.stop() == 0
    assert place.lines() == [str(n) for n in range(1, 10)]


@contextlib.contextmanager
def limited(what: int, most: int, pid: int = 0) -> Iterator[None]:
    """Limit a resource of a process, or of this one and those that it starts, for a while."""
    soft, hard = resource.prlimit(pid, what)
    resource.prlimit(pid, what, (most, hard))
    try:
        yield
    finally:
        resource.prlimit(pid, what, (soft, hard))


def test_a_disk_without_room_keeps_nobody_from_working(place: Place) -> None:
    """No file can be written: a supervisor still starts, runs the tasks, replaces its workers and stops."""
    place.write_app("@Spooler.task\ndef fine(): return True")
    place.call("fine()")
    with limited(resource.RLIMIT_FSIZE, 0):
        running = place.run()
        first = running.wait_for_verdict("processed")
    assert any(
        line["message"].startswith(f"cannot register this supervisor in {place.spool}: File too large")
        for line in running.seen
    )
    running.signal(signal.SIGHUP)
    running.wait_for_message("reloaded")
    place.call("fine()")
    assert running.wait_for_verdict("processed")["worker"] != first["worker"]
    assert running.stop() == 0


def test_a_worker_that_cannot_be_forked_is_tried_again(place: Place) -> None:
    """Without a descriptor for a new worker, the supervisor logs this and waits. When there is room, it continues."""
    place.write_app(HOLDING)
    place.call("mark(1)")
    running = place.run()
    worker = running.wait_for_verdict("processed")["worker"]
    with limited(resource.RLIMIT_NOFILE, 3, running.process.pid):
        os.kill(worker, signal.SIGKILL)
        running.wait_for_message("cannot start a worker: Too many open files; trying again in")
        running.wait_for_message("cannot start a worker: Too many open files; trying again in")
    place.call("mark(2)")
    running.wait_for_verdict("processed")
    assert running.stop() == 0
    assert place.lines() == ["1", "2"]


def test_random_kills_lose_nothing(place: Place) -> None:
    """Twenty workers are killed while 2,000 tasks run: each task runs, and at most one runs twice for each kill."""
    seed = random.randrange(1 << 32)
    print("seed", seed)
    choose = random.Random(seed).choice
    place.write_app(HOLDING)
    place.call("mark.enqueue_many(range(2000))")
    running = place.run("--processes", "2")
    for kill in range(20):
        running.wait_for(lambda line, goal=90 * kill: len(place.lines()) > goal)  # type: ignore[misc]
        workers = [info.pid for info in place.backend.live() if info.role == "worker"]
        if workers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(choose(workers), signal.SIGKILL)
    running.wait_for(lambda line: sum(place.backend.counts().tasks.values()) == 0)
    assert running.stop() == 0
    counts = Counter(map(int, place.lines()))
    assert sorted(counts) == list(range(2000))
    assert sum(counts.values()) - 2000 <= 20


def test_a_worker_killed_in_its_import_is_replaced_where_another_has_imported(place: Place) -> None:
    """The application can be imported, as the other worker shows, so the supervisor does not stop."""
    place.write_app(
        HOLDING
        + """
    try:
        os.close(os.open("first", os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        note("importer", os.getpid())
        note("importing")
        open("gate").read()
"""
    )
    os.mkfifo(place.root / "gate")
    running = place.run("--processes", "2")
    place.backend.send([sealed(codec.encode(call_message("tasks:mark", (1,), {})))])
    running.wait_for_verdict("processed")
    place.wait_for_line("importing")
    pid = next(line.split()[1] for line in place.lines() if line.startswith("importer"))
    os.kill(int(pid), signal.SIGKILL)
    running.wait_for_message(f"worker {pid} was killed by SIGKILL while it imported the application")
    place.backend.send([sealed(codec.encode(call_message("tasks:mark", (2,), {})))])
    running.wait_for_verdict("processed")
    assert running.stop() == 0
