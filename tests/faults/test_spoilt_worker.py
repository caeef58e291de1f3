"""A task changes its whole process: the worker is restored or replaced, with one line, and the next tasks run."""

import subprocess
import sys

import pytest

from unspool import inspection

from ..runtime.conftest import PATIENCE, Place
from .conftest import needs

APP = """
    import resource
    LONG = 0.01  # seconds; longer than the time between two looks at what is rarely changed
    @Spooler.task(max_attempts=1)
    def good():
        print("something", flush=True)
        note("good", os.getpid())
        return True
    @Spooler.task(max_attempts=1)
    def seteuid(): os.seteuid(65534); return True
    @Spooler.task(max_attempts=1)
    def setegid(): time.sleep(LONG); os.setegid(65534); os.setgroups([5]); return True
    @Spooler.task(max_attempts=1)
    def chroot(): time.sleep(LONG); os.mkdir("jail"); os.chroot("jail"); return True
    def limit(which, soft): resource.setrlimit(which, (soft, resource.getrlimit(which)[1])); return True
    @Spooler.task(max_attempts=1)
    def few_files(): time.sleep(LONG); return limit(resource.RLIMIT_NOFILE, 3)
    @Spooler.task(max_attempts=1)
    def no_bytes(): return limit(resource.RLIMIT_FSIZE, 0)
    @Spooler.task(max_attempts=1)
    def no_bytes_for_good(): resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0)); return True
    @Spooler.task(max_attempts=1)
    def close_stdout(): sys.stdout.close(); return True
    @Spooler.task(max_attempts=1)
    def close_number_1(): time.sleep(LONG); os.close(1); return True
    @Spooler.task(max_attempts=1)
    def replace_stdout(): sys.stdout = None; return True

    def descriptors(kind):
        import fcntl
        for number in sorted(map(int, os.listdir("/proc/self/fd"))):
            try: target = os.readlink(f"/proc/self/fd/{number}")
            except OSError: continue
            if kind == "report" and target.startswith("pipe:") and number > 2:
                if fcntl.fcntl(number, fcntl.F_GETFL) == os.O_WRONLY: yield number
            if kind == "directory" and target == os.environ["UNSPOOL_SPOOLERS"]: yield number
    @Spooler.task(max_attempts=1)
    def lose(kind, path):
        time.sleep(LONG)
        for number in list(descriptors(kind)):
            fd = os.open(path, os.O_RDWR | os.O_CREAT if kind == "report" else os.O_RDONLY, 0o600)
            os.dup2(fd, number)
        return True
"""


@pytest.mark.parametrize(
    ("task", "line"),
    [
        ("seteuid", "a task changed the user or groups of worker"),
        ("setegid", "a task changed the user or groups of worker"),
        ("chroot", "a task changed the root directory of worker"),
        ("few_files", "a task changed the resource limits of worker"),
        ("no_bytes", "a task changed the resource limits of worker"),
        ("close_stdout", "failed: a task changed its standard streams"),
        ("close_number_1", "failed: a task changed its standard streams"),
        ("replace_stdout", ""),
    ],
)
def test_what_a_task_has_changed_harms_no_other(place: Place, task: str, line: str) -> None:
    """This happens before other tasks, each of which would fail or lose its output."""
    needs(root=True)
    place.write_app(APP)
    place.call(f"for _ in range(5): good()\n{task}()\nfor _ in range(5): good()")
    running = place.burst()
    assert running.verdicts() == ["processed"] * 11
    said = [one["message"] for one in running.seen if one["level"] in ("WARNING", "ERROR")]
    assert len(said) == bool(line)
    assert all(line in one for one in said)
    workers = {one["worker"] for one in running.seen if "worker" in one}
    assert len(workers) == (2 if "failed" in line else 1)


def test_a_limit_that_cannot_be_raised_again_ends_the_worker(place: Place) -> None:
    """A process that may not raise hard limits is replaced. One that may restores the limit."""
    place.write_app(APP)
    place.call("good()\nno_bytes_for_good()\nfor _ in range(5): good()")
    running = place.burst()
    assert running.verdicts() == ["processed"] * 7
    (said,) = [one["message"] for one in running.seen if one["level"] in ("WARNING", "ERROR")]
    assert "a task changed" in said
    assert "resource limits" in said


@pytest.mark.parametrize("kind", ["report", "directory"])
def test_a_descriptor_of_the_worker_that_has_become_another_file(place: Place, kind: str) -> None:
    """As after a double close, the run counts as a crash, nothing is written to the file, and the other tasks run."""
    place.write_app(APP)
    other = place.root / "other"
    if kind == "directory":
        other.mkdir()
    place.call(f"good()\nlose({kind!r}, {str(other)!r})\nfor _ in range(5): good()")
    running = place.run()
    while running.verdicts().count("processed") < 6:
        running.wait_for_verdict("processed")
    assert running.stop() == 0
    crashed = {one["reason"] for one in running.seen if one.get("verdict") == "crashed"}
    assert crashed == {"its worker lost its descriptors, which a task closed"}
    assert not list(other.iterdir()) if kind == "directory" else other.read_bytes() == b""


def test_a_worker_in_which_everything_fails_suddenly_is_replaced(place: Place) -> None:
    """This holds for any cause, here the state of a module, which is never restored."""
    place.write_app("""
    broken = False
    @Spooler.task
    def good():
        if broken: raise ValueError("broken")
        return True
    @Spooler.task
    def breaks():
        global broken
        broken = True
        return True
    """)
    place.call("good(); breaks()\nfor _ in range(20): good()")
    running = place.burst()
    assert running.verdicts() == ["processed"] * 2 + ["rescheduled"] * 10 + ["processed"] * 10
    (said,) = [one["message"] for one in running.seen if one["level"] == "ERROR"]
    assert "failed: everything failed in it lately, and nearly nothing before" in said


STREAMS = """
    class Odd:
        def write(self, text): return len(text)
        def flush(self): raise SystemExit("no")
    @Spooler.task
    def good(): return True
"""


@pytest.mark.parametrize("stdout", ["None", "Odd()", "type('NoFlush', (), {'write': len})()", "closed"])
def test_standard_output_of_any_kind(place: Place, stdout: str) -> None:
    """None, a closed stream, or an object without ``flush`` or with one that raises is not a failure of the worker."""
    change = "sys.stdout.close()" if stdout == "closed" else f"sys.stdout = {stdout}"
    place.write_app(f"{STREAMS}\n    if 'SUPERVISED' in os.environ: {change}")
    place.call("good()")
    place.env["SUPERVISED"] = "1"
    running = place.burst()
    assert running.verdicts() == ["processed"]
    assert [one for one in running.seen if one["level"] == "ERROR"] == []


def test_a_command_line_without_standard_streams(place: Place) -> None:
    """Files that it opens do not get their numbers, so the output of tasks does not go into them."""
    place.write_app(STREAMS)
    place.call("good()")
    for words in ("run tasks --burst", "status"):
        command = f"exec {sys.executable} -m unspool {words} <&- >&- 2>&-"
        done = subprocess.run(["/bin/sh", "-c", command], cwd=place.root, env=place.env, timeout=PATIENCE, check=False)
        assert done.returncode == 0
    assert inspection.runs(place.backend)[0].verdict == "processed"


def test_work_that_a_task_left_to_an_executor_is_waited_for(place: Place) -> None:
    """The worker waits for it, and for threads that are not daemons, as Python does at its end."""
    place.write_app("""
    import threading
    from concurrent.futures import ThreadPoolExecutor
    pool = ThreadPoolExecutor()
    def work(name): hold(name); note("done", name)
    @Spooler.task
    def leave():
        pool.submit(work, "pool")
        threading.Thread(target=work, args=["thread"]).start()
        return True
    """)
    place.gate("pool")
    place.gate("thread")
    place.call("leave()")
    running = place.run("--burst")
    running.wait_for_verdict("processed")
    for name in ("pool", "thread"):
        place.open_gate(name)
    assert running.end() == 0
    assert {"done pool", "done thread"} <= set(place.lines())
    assert [one for one in running.seen if one["level"] == "ERROR"] == []
