"""Workers that do not end or report: each end has a time limit, and other tasks continue."""

import contextlib
import os
import signal
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from unspool import inspection
from unspool.message import State
from unspool.runtime.events import Broken, dump

from .conftest import Place

HANGING = """
    import atexit, multiprocessing
    @Spooler.task
    def mark(n): note(n); return True
    @Spooler.task
    def child():
        started = multiprocessing.get_context("fork").Process(target=time.sleep, args=(3600,))
        started.start()
        note("child", started.pid)
        return True
    @Spooler.task
    def handler():
        atexit.register(time.sleep, 3600)
        note("registered")
        return True
"""


@pytest.mark.parametrize("task", ["child", "handler"])
def test_a_worker_that_hangs_at_its_end_is_replaced_at_once(place: Place, task: str) -> None:
    """Its tasks have ended: a new worker runs others while it hangs. It is then killed together with the processes that
    it has started, one line says so, and no task counts a crash.
    """
    place.write_app(HANGING)
    place.call(f"{task}.using(priority=1)(); [mark(n) for n in range(10)]")
    running = place.run("--ending", "0.5", "--max-tasks", "1")
    killed = running.wait_for_message("worker")
    while len(running.verdicts()) < 11:
        running.wait_for_verdict("processed")
    assert running.stop() == 0
    first = next(line for line in running.seen if "verdict" in line)
    assert killed["message"] == f"worker {first['worker']} did not end in time and was killed; it was running no task"
    assert running.verdicts() == ["processed"] * 11
    assert [line for line in running.seen if line["level"] != "INFO"] == [killed]
    for line in place.lines():
        if line.startswith("child"):
            assert not is_running(int(line.split()[1]))


def test_term_ends_in_time_though_a_worker_does_not(place: Place) -> None:
    """One worker hangs at its end, and one ignores TERM while it imports: both are killed, and the status is 0."""
    place.write_app(
        HANGING
        + """
    if os.path.exists("gate"):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        note("importing")
        open("gate").read()
"""
    )
    place.call("handler()")
    running = place.run("--ending", "0.5")
    running.wait_for_verdict("processed")
    os.mkfifo(place.root / "gate")
    running.signal(signal.SIGHUP)
    place.wait_for_line("importing")
    assert running.stop() == 0
    said = [line["message"].partition(" ")[2].partition(" ")[2] for line in running.seen if line["level"] == "ERROR"]
    assert said == ["did not end in time and was killed; it was running no task"]


def test_a_reload_does_not_keep_workers_that_hang(place: Place) -> None:
    """The old worker hangs at its end: the new one works, and the old one is killed."""
    place.write_app(HANGING)
    place.call("handler()")
    running = place.run("--ending", "0.5")
    running.wait_for_verdict("processed")
    running.signal(signal.SIGHUP)
    running.wait_for_message("reloaded")
    running.wait_for_message("worker")
    place.call("mark(1)")
    running.wait_for_verdict("processed", "mark")
    assert running.stop() == 0
    assert place.lines() == ["registered", "1"]


WRITING = """
    import fcntl
    def pipes():
        '''The descriptors of this process that are the writing ends of pipes.'''
        for name in os.listdir("/proc/self/fd"):
            number = int(name)
            try:
                if number > 2 and os.readlink(f"/proc/self/fd/{number}").startswith("pipe:"):
                    if fcntl.fcntl(number, fcntl.F_GETFL) & 3 == os.O_WRONLY:
                        yield number
            except OSError:
                pass
    @Spooler.task(max_attempts=2)
    def write(line, gate=""):
        if gate: hold(gate)
        for number in list(pipes()):
            os.set_blocking(number, True)
            os.write(number, line)
        note("written")
        if not gate: time.sleep(3600)
        return True
    @Spooler.task
    def mark(n): note(n); return True
"""


@pytest.mark.parametrize(
    "line",
    [
        b"oops\n",
        b'["end"]\n',
        b'["end",7,"name",null,["i","t","dead",1,1.0,1.0,7,""]]\n',
        b'["begin",0,"name\\ud800",NaN,1,1]\n',
    ],
)
def test_a_task_that_writes_into_the_report_pipe(place: Place, line: bytes) -> None:
    """Its worker is killed and replaced with one line. The current run counts as a crash, and other tasks run."""
    place.write_app(WRITING)
    place.call(f"write({line!r}); [mark(n) for n in range(10)]")
    running = place.run()
    running.wait_for_verdict("dead", "write")
    for _ in range(10 - running.verdicts().count("processed")):
        running.wait_for_verdict("processed", "mark")
    assert running.stop() == 0
    crashes = [line["reason"] for line in running.seen if line.get("verdict") == "crashed"]
    assert len(crashes) == 2
    assert all(reason.startswith("its worker was killed: it sent an invalid report: ") for reason in crashes)
    assert [line for line in place.lines() if line.isdigit()] == [str(n) for n in range(10)]
    assert place.backend.counts().tasks[State.DEAD] == 1


def test_a_run_that_has_ended_is_no_crash(place: Place) -> None:
    """A task ends after it has written into the pipe, and so does the next one: their worker is killed. Neither of the
    two counts a crash or runs again, but the third task, which was running, does.
    """
    place.write_app(WRITING)
    place.gate("first")
    place.gate("last")
    place.call("write(b'oops\\n', 'first'); mark(1); write(b'', 'last')")
    running = place.run()
    place.wait_for_line("begun first")
    running.signal(signal.SIGSTOP)
    place.open_gate("first")
    place.wait_for_line("begun last")  # by then the ends of the others have been told
    running.signal(signal.SIGCONT)
    crashed = running.wait_for_verdict("crashed", "write")
    assert crashed["reason"] == "its worker was killed: it sent an invalid report: b'oops'"
    place.open_gate("last")
    running.wait_for_verdict("processed", "write")
    assert running.stop() == 0
    assert place.lines() == ["begun first", "written", "1", "begun last", "begun last", "written"]
    assert running.verdicts().count("crashed") == 1
    assert place.backend.counts().tasks == dict.fromkeys(State, 0)


def test_a_worker_whose_reports_go_elsewhere_is_replaced(place: Place) -> None:
    """A task replaces the report pipe with a file, and a child process keeps the pipe open: the worker notices before
    it writes into the file, and is replaced.
    """
    place.write_app(
        WRITING
        + """
    @Spooler.task
    def swap():
        if os.path.exists("own"): return True
        for number in list(pipes()):
            if os.fork() == 0:
                os.closerange(0, 3)
                time.sleep(3600)
            own = os.open("own", os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
            os.dup2(own, number)
            os.close(own)
        return True
"""
    )
    place.call("swap(); mark(0)")
    running = place.run("--ending", "0.5")
    crashed = running.wait_for_verdict("crashed", "swap")
    assert crashed["reason"] == "its worker lost its descriptors, which a task closed"
    ended = {running.wait_for_verdict("processed")["task"] for _ in range(2)}  # whichever comes first
    assert ended == {"tasks:swap", "tasks:mark"}
    assert running.stop() == 0
    assert [line for line in place.lines() if line.isdigit()] == ["0"]
    assert (place.root / "own").read_bytes() == b""


def test_a_worker_that_reports_nothing_is_replaced(place: Place) -> None:
    """A task prevents its worker from reporting, and the pipe stays open: the supervisor notices that the end of a run
    was not reported, and the worker is replaced.
    """
    place.write_app(
        WRITING
        + """
    @Spooler.task
    def silence():
        from unspool.runtime import report
        hold("gate")
        report.Writer.write = lambda self, event: True
        return True
"""
    )
    place.gate("gate")
    place.call("silence(); mark(0)")
    running = place.run("--ending", "0.5")
    place.wait_for_line("begun gate")
    place.call("mark(1)")  # which has the supervisor look
    place.open_gate("gate")
    line = running.wait_for_message("worker")
    assert line["message"].endswith("was killed: it did not report the end of a run; it was running no task")
    place.call("mark(2)")
    running.wait_for_verdict("processed", "mark")
    assert running.stop() == 0
    assert [line for line in place.lines() if line.isdigit()] == ["0", "1", "2"]


@contextlib.contextmanager
def locked_history(place: Place) -> Iterator[None]:
    """Lock the database of history, as a backup program may."""
    with contextlib.closing(sqlite3.connect(place.spool / ".unspool/history.sqlite3", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield


MARKS = """
    @Spooler.task
    def mark(n): return True
"""


def test_a_stop_does_not_wait_for_a_locked_history(place: Place) -> None:
    """Tasks continue, and QUIT stops at once. A line says how many runs are not written. They are in a journal, from
    which they are read, and which the next supervisor writes into the database.
    """
    place.write_app(MARKS)
    place.call("mark(0)")
    place.burst()
    with locked_history(place):
        place.call("mark.enqueue_many(range(1, 1000))")
        running = place.run("--processes", "2")
        for _ in range(999):
            running.wait_for_verdict("processed")
        running.signal(signal.SIGQUIT)
        assert running.end(within=30) == 0
        (said,) = [line["message"] for line in running.seen if "history" in line["message"]]
        assert said == f"999 runs not in the history of {place.spool} yet; the next supervisor adds them"
        assert len({record.id for record in inspection.runs(place.backend, limit=5000)}) == 1000
    place.call("mark(1000)")
    place.burst()
    records = inspection.runs(place.backend, limit=5000)
    assert (len(records), len({record.id for record in records})) == (1001, 1001)
    assert not list(place.spool.glob(".unspool/journal-*"))


def test_a_recorder_that_dies_loses_nothing(place: Place) -> None:
    """The recorder is killed with unwritten records. A new one, or the journal, has each of them once."""
    place.write_app(MARKS)
    place.call("mark(0)")
    place.burst()
    with locked_history(place):
        running = place.run()
        place.call("mark.enqueue_many(range(1, 500))")
        for _ in range(499):
            running.wait_for_verdict("processed")
        children = Path(f"/proc/{running.process.pid}/task/{running.process.pid}/children").read_text()
        workers = {info.pid for info in place.backend.live()}
        (recorder,) = {int(pid) for pid in children.split()} - workers
        os.kill(recorder, signal.SIGKILL)
        place.call("mark(500)")
        running.wait_for_verdict("processed")
    assert running.stop() == 0
    said = [line["message"] for line in running.seen if line["message"].startswith("the recorder")]
    assert said == ["the recorder of history was killed by SIGKILL; a new one replaces it"]
    records = inspection.runs(place.backend, limit=5000)
    assert (len(records), len({record.id for record in records})) == (501, 501)


def is_running(pid: int) -> bool:
    """Return whether a process exists that is not a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_report_that_a_task_has_forged_is_shown_escaped(place: Place) -> None:
    """A forged report of a task puts no control character into the log."""
    dying = """
    @Spooler.task(max_attempts=1)
    def die(line):
        for number in list(pipes()):
            os.write(number, line)
        os._exit(5)
    """
    place.write_app(WRITING + dying)
    line = f"{dump(Broken(chr(27) + '[31mred'))}\n".encode()
    place.call(f"die({line!r})")
    running = place.run()
    told = running.wait_for(lambda line: "[31mred" in str(line["message"]))
    assert "\\x1b[31mred" in told["message"]
    assert "\x1b" not in told["message"]
    running.stop()
