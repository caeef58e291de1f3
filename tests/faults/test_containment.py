"""Tasks that misbehave in their worker: the next task runs in a sane process, and nothing is lost or run twice."""

import os
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path

import pytest

from unspool import inspection
from unspool.message import State

from ..runtime.conftest import PATIENCE, Place

AFTER = """
    import locale
    @Spooler.task
    def after():
        mask = os.umask(0); os.umask(mask)
        here = os.getcwd()
        handlers = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGHUP, signal.SIGCHLD, signal.SIGPIPE)]
        note("after", here, mask, *[str(h).replace(" ", "") for h in handlers], len(signal.pthread_sigmask(0, ())),
             locale.setlocale(locale.LC_ALL), signal.getitimer(signal.ITIMER_REAL)[0])
        sys.stdout.write("to standard output")
        return True
"""


def test_surroundings_are_put_back(place: Place) -> None:
    """Directory, umask, signal handlers and mask, alarm and locale are the same for the next task in the same process.
    The umask does not apply to the file of a reason.
    """
    place.write_app(
        AFTER
        + """
    @Spooler.task(max_attempts=1)
    def mess():
        os.chdir("/"); os.umask(0o777); signal.alarm(1); locale.setlocale(locale.LC_ALL, "C.UTF-8")
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD, signal.SIGPIPE):
            signal.signal(number, signal.SIG_IGN)
        signal.signal(signal.SIGINT, lambda *_: None)
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM, signal.SIGUSR1])
        raise ValueError("and fails")
    """
    )
    place.call("after(); mess(); after()")
    running = place.run()
    for _ in range(2):
        running.wait_for_verdict("processed")
    assert running.stop() == 0
    first, second = (line for line in place.lines() if line.startswith("after"))
    assert first == second
    assert len({line["worker"] for line in running.seen if "worker" in line}) == 1
    (dead,) = inspection.tasks(place.backend)
    assert dead.reason == "ValueError: and fails"
    assert Path(f"{dead.id}.reason").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("lowest", [0, 3])
def test_a_task_that_closes_all_descriptors(place: Place, lowest: int) -> None:
    """This releases its lock, so the run counts as a crash and ends dead, also if it continues forever. The worker is
    replaced before it writes to other files with the same numbers, and the closed pipe does not keep the supervisor
    busy.
    """
    place.write_app(
        AFTER
        + """
    @Spooler.task
    def close(lowest):
        os.closerange(lowest, 200)
        taken = [os.open(os.environ["ORACLE"] + ".other", os.O_RDWR | os.O_CREAT, 0o600) for _ in range(100)]
        if not os.path.exists(os.environ["ORACLE"] + ".once"):
            os.mkfifo(os.environ["ORACLE"] + ".once")
            hold("closed")
        return True
    """
    )
    place.gate("closed")
    place.call(f"close({lowest}); after(); after()")
    running = place.run()
    place.wait_for_line("begun closed")
    before = cpu_time(running.process.pid)
    place.call("pass")  # half a second in which the supervisor has nothing to do
    assert cpu_time(running.process.pid) - before < 0.2
    running.wait_for_verdict("dead")
    while running.verdicts().count("processed") < 2:
        running.wait_for_verdict("processed")
    assert running.stop() == 0
    assert [verdict for verdict in running.verdicts() if verdict != "processed"] == ["crashed"] * 3 + ["dead"]
    assert Path(f"{place.oracle}.other").read_bytes() == b""
    assert {line["reason"] for line in running.seen if line.get("verdict") == "crashed"} == {
        "its worker lost its descriptors, which a task closed"
    }
    assert sum(line.startswith("after") for line in place.lines()) == 2


def test_a_worker_without_descriptors_makes_room(place: Place) -> None:
    """A task leaks descriptors until none are left: at most one more task fails, and is retried. A new worker then
    continues.
    """
    place.write_app(
        AFTER.replace("@Spooler.task", "@Spooler.task(retry_delay=0.01)")
        + """
    import contextlib, resource
    resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100))
    leaked = []
    @Spooler.task
    def leak():
        with contextlib.suppress(OSError):
            while True: leaked.append(open("/dev/null"))
        return True
    """
    )
    place.call("leak(); [after() for _ in range(20)]")
    started = time.monotonic()
    running = place.run()
    for _ in range(21):
        running.wait_for_verdict("processed")
    assert running.stop() == 0
    assert time.monotonic() - started < 10
    assert sum(line.startswith("after") for line in place.lines()) == 20
    assert len({line["worker"] for line in running.seen if "worker" in line}) == 2
    assert running.verdicts().count("rescheduled") <= 1


def test_few_descriptors_are_enough(place: Place) -> None:
    """Files that a worker has removed and not passed on yet use descriptors. They are closed for the next task."""
    place.write_app(
        AFTER
        + """
    import resource
    resource.setrlimit(resource.RLIMIT_NOFILE, (50, 50))
    """
    )
    place.call("after.enqueue_many([()] * 150)")
    running = place.burst()
    assert running.verdicts() == ["processed"] * 150
    assert len({line["worker"] for line in running.seen if "worker" in line}) == 1


@pytest.mark.parametrize("own", ["open(path, 'rb').read()", "open(path, 'r+').close()", "os.close(os.dup(3))"])
def test_a_task_that_opens_its_own_file(place: Place, own: str) -> None:
    """Its lock stays, so a second supervisor does not run the task meanwhile."""
    place.write_app(f"""
    @Spooler.task
    def look():
        for path in Spooler.get_tasks(): {own}
        hold("gate")
        return True
    """)
    place.gate("gate")
    place.call("look()")
    first = place.run()
    place.wait_for_line("begun gate")
    place.burst()  # finds nothing to do
    place.open_gate("gate")
    first.wait_for_verdict("processed")
    assert first.stop() == 0
    assert place.lines() == ["begun gate"]


@pytest.mark.parametrize("end", ["return True", "return ResultRescheduled()", "raise ValueError", "os._exit(1)"])
def test_a_task_that_deletes_its_own_file(place: Place, end: str) -> None:
    """The task has left the queue, however it ends. Nothing of it stays, and the next task runs."""
    place.write_app(f"""
    @Spooler.task(max_attempts=1)
    def vanish():
        note("vanish")
        for path in Spooler.get_tasks(): os.unlink(path)
        {end}
    @Spooler.task
    def mark(): note("mark"); return True
    """)
    place.call("vanish()")
    running = place.run()
    place.wait_for_line("vanish")
    place.call("mark()")
    running.wait_for_verdict("processed", "mark")
    assert running.stop() == 0
    assert place.lines() == ["vanish", "mark"]
    assert sum(place.backend.counts().tasks.values()) == 0


@pytest.mark.timeout(5 * PATIENCE)
def test_a_task_that_spools_ten_thousand(place: Place) -> None:
    """Each of them runs once, and so do the tasks before and after it."""
    place.write_app("""
    @Spooler.task
    def many(): mark.enqueue_many(range(10_000)); return True
    @Spooler.task
    def mark(n):
        with open(os.environ["ORACLE"], "a") as oracle: oracle.write(f"{n}\\n")
        return True
    """)
    place.call("mark('before'); many(); mark('after')")
    running = place.run("--burst", "--processes", "2")
    running.process.wait(4 * PATIENCE)
    assert running.end() == 0
    assert Counter(place.lines()) == Counter(["before", "after", *map(str, range(10_000))])


def test_a_gigabyte_on_standard_output(place: Place) -> None:
    """The output goes to that of the supervisor. No process grows, and the next task runs in the same one."""
    place.write_app("""
    @Spooler.task
    def shout():
        block = "x" * (1 << 20)
        for _ in range(1024): sys.stdout.write(block)
        note("shouted", os.getpid())
        return True
    @Spooler.task
    def mark():
        import resource
        note("grown", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 200_000, os.getpid())
        return True
    """)
    place.call("shout(); mark()")
    place.burst()
    (_, worker), (_, grown, same) = (line.split() for line in place.lines())
    assert (grown, same) == ("True", worker)


def test_a_task_that_eats_memory(place: Place) -> None:
    """Under a limit of the system, it fails with MemoryError. If the system kills it, it counts as a crash."""
    place.write_app("""
    import resource
    @Spooler.task(max_attempts=1)
    def eat():
        resource.setrlimit(resource.RLIMIT_AS, (1 << 30, -1))
        try: return bytearray(4 << 30)
        finally: resource.setrlimit(resource.RLIMIT_AS, (-1, -1))
    @Spooler.task
    def mark(): note("mark"); return True
    """)
    place.call("eat(); mark()")
    running = place.burst()
    assert running.verdicts() == ["dead", "processed"]
    (entry,) = inspection.tasks(place.backend)
    assert entry.reason == "MemoryError"


def test_a_hanging_task_is_ended_with_all_that_it_started(place: Place) -> None:
    """The task ignores TERM, its alarm and the exception of its time limit, and waits for a program that does too. Both
    are killed before its next run begins.
    """
    place.write_app("""
    import subprocess
    @Spooler.task(timeout=1, max_attempts=2, retry_delay=0)
    def hang():
        for number in (signal.SIGTERM, signal.SIGALRM): signal.signal(number, signal.SIG_IGN)
        child = subprocess.Popen(["sleep", "3600"])
        note("child", child.pid)
        while True:
            try: child.wait()
            except BaseException: pass
    @Spooler.task
    def mark(): note("mark"); return True
    """)
    place.call("hang()")
    running = place.run()
    killed = running.wait_for_verdict("timeout")
    place.call("mark.using(priority=1)()")
    assert killed["reason"] == "its worker was killed for overrunning the task's time limit"
    running.signal(signal.SIGQUIT)
    assert running.end() == 0
    for line in place.lines():
        if line.startswith("child"):
            assert not Path("/proc", line.split()[1]).exists() or zombie(int(line.split()[1]))


def test_children_that_a_task_leaves_behind(place: Place) -> None:
    """They keep no lock, neither of a task that has ended nor of one whose worker was killed. Children of a worker that
    ended normally are not killed.
    """
    place.write_app("""
    @Spooler.task
    def leave(crash):
        pid = os.fork()
        if pid == 0:
            os.closerange(0, 3)  # the test waits for the end of standard error
            time.sleep(3600)
        note("left", pid)
        if crash and len(open(os.environ["ORACLE"]).readlines()) == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return True
    """)
    place.call("leave(True)")
    running = place.run()
    running.wait_for_verdict("processed")
    assert running.stop() == 0
    first, second = (int(line.split()[1]) for line in place.lines())
    assert not Path(f"/proc/{first}").exists() or zombie(first)
    assert Path(f"/proc/{second}").exists()
    os.kill(second, signal.SIGKILL)
    assert place.backend.counts().tasks == dict.fromkeys(State, 0)


def test_three_forced_stops_do_not_bury_a_long_task(place: Place) -> None:
    """It is stopped twice as by a service manager, with KILL for all processes after TERM, and three times by a second
    TERM. Each run is an attempt, but none is a crash, and the task still exists.
    """
    place.write_app("""
    @Spooler.task
    def long(): hold("gate"); return True
    """)
    place.gate("gate")
    place.call("long()")
    for stop in range(1, 6):
        running = place.run()
        place.wait_for_line("begun gate", times=stop)
        running.signal(signal.SIGTERM)
        running.wait_for_message("stopping after")
        if stop <= 2:
            for info in place.backend.live():
                os.kill(info.pid, signal.SIGKILL)
            running.process.wait(PATIENCE)
        else:
            running.signal(signal.SIGTERM)
            assert running.end() == 0
            (line,) = [line for line in running.seen if "verdict" in line]
            assert (line["verdict"], line["reason"]) == ("crashed", "its worker was killed by a forced stop")
    (entry,) = inspection.tasks(place.backend)
    assert (entry.state, entry.attempts) == (State.READY, 5)
    running = place.run()
    place.wait_for_line("begun gate", times=6)
    place.open_gate("gate")
    running.wait_for_verdict("processed")
    assert running.stop() == 0


def cpu_time(pid: int) -> float:
    """Return the seconds of processor time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def zombie(pid: int) -> bool:
    """Return whether a process is dead and not reaped yet."""
    found = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return found.stdout.strip().startswith("Z") or not found.stdout.strip()
