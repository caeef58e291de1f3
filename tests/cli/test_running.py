"""``run``: real supervisors with real workers, controlled by options and signals."""

import json
import re
import signal

import pytest

from .conftest import Shell


def test_burst_runs_what_is_ready_and_ends(shell: Shell) -> None:
    """All ready tasks run in order of priority, deferred tasks stay, and the status is 0."""
    second = shell.send("app:add", "1")
    first = shell.send("app:add", "1", "--priority", "1")
    later = shell.send("app:add", "1", "--in", "1h")

    lines = shell.burst("--processes", "1")

    assert [entry["id"] for entry in shell.json("ls")] == [later]
    runs = [line for line in lines if "processed" in line]
    assert [line.split()[5] for line in runs] == [first.removeprefix(f"{shell.mail}/"), second.rpartition("/")[2]]


def test_text_log_lines(shell: Shell) -> None:
    """One line per run has time with offset, level, pid, spooler, task, id, verdict, duration and reason."""
    id = shell.send("app:fail", '"two\\nlines"')
    lines = shell.burst()

    [line] = [line for line in lines if "app:fail" in line]

    time = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}[+-]\d\d:\d\d"
    name = re.escape(id.rpartition("/")[2])
    place = re.escape(str(shell.mail))
    run = rf"{time} ERROR   \d+ {place} app:fail {name} dead in [\d.]+ m?s attempt 1: ValueError: two"
    assert re.fullmatch(run, line)
    assert re.fullmatch(rf"{time} INFO    \d+ started: app app, .*", lines[0])


def test_json_log_lines(shell: Shell) -> None:
    """--log-format json writes one object per line, with the fields of a run for its end."""
    id = shell.send("app:stumble")

    lines = [json.loads(line) for line in shell.burst("--log-format", "json")]

    assert all(set(line) >= {"time", "level", "pid", "message"} for line in lines)
    [run] = [line for line in lines if "verdict" in line]
    assert (run["id"], run["spooler"], run["task"]) == (id, str(shell.mail), "app:stumble")
    assert (run["verdict"], run["attempt"], run["level"]) == ("rescheduled", 1, "warning")
    assert run["reason"] == "ValueError: try me later"
    assert run["traceback"].startswith("Traceback (most recent call last):\n")
    assert run["traceback"].endswith("ValueError: try me later")
    assert run["until"] > 0
    assert run["duration"] >= 0
    assert run["pid"] != lines[0]["pid"]


ODD = """
from unspool import Spooler

class Odd(Exception):
    def __str__(self):
        raise SystemExit(1)

@Spooler.task(max_attempts=1)
async def group():
    raise ExceptionGroup("all", [ValueError("order 17 has no price"), KeyError("x")])

@Spooler.task(max_attempts=1)
def odd():
    raise Odd

@Spooler.task(max_attempts=1)
def half():
    raise ValueError("\\n\\ud83d of\\0\\nmore")
"""


def test_a_reason_is_the_same_everywhere(shell: Shell) -> None:
    """The log, ls, show and history have the type and the first line of the error. show and JSON also have the
    traceback. An exception whose text cannot be read or stored affects no other task.
    """
    (shell.root / "odd.py").write_text(ODD)
    reasons = {
        shell.send("odd:group"): "ValueError: order 17 has no price (and 1 more in ExceptionGroup)",
        shell.send("odd:odd"): "odd.Odd: <exception str() failed>",
        shell.send("odd:half"): "ValueError: \\ud83d of\\x00",
    }

    log = shell.result("run", "odd", "--burst").stderr.splitlines()

    assert sorted(line.partition(" attempt 1: ")[2] for line in log if " dead " in line) == sorted(reasons.values())
    runs = {run["id"]: run for run in shell.json("history")}
    assert {id: run["reason"] for id, run in runs.items()} == reasons
    assert all(": " in run["traceback"] for run in runs.values())
    assert {line.split("\t")[-1] for line in shell("history").splitlines()} == set(reasons.values())
    dead = shell.json("ls", "--state", "dead")
    assert sorted(entry["reason"] for entry in dead) == sorted(reasons.values())
    shown = shell("show", dead[0]["id"])
    assert shown.count(dead[0]["reason"]) >= 2
    assert "\n    Traceback" in shown or "Group Traceback" in shown


def test_log_level(shell: Shell) -> None:
    """Lines below the level are not written. The level may come from the environment."""
    shell.send("app:add", "1")
    shell.send("app:fail")

    done = shell.result("run", "app", "--burst", UNSPOOL_RUN_LOG_LEVEL="error")

    assert "dead" in done.stderr
    assert done.stderr.count("\n") == 1


def test_progress_on_a_terminal(shell: Shell) -> None:
    """A line that is rewritten in place replaces the lines of successful runs. Failures are lines above it. At the end
    it is cleared.
    """
    shell.send("app:add", "1")
    shell.send("app:fail")

    text = shell.on_terminal("run", "app", "--burst")

    assert "waiting" in text
    assert "processed" not in text
    assert "\r\x1b[K" in text
    assert text.endswith("\r\x1b[K")
    last = [part for part in text.split("\r") if "waiting" in part][-1]
    assert last.startswith("2 run | 1 failed | 1 dead | 0 waiting"), "the last that it shows is the end"
    assert any("app:fail" in line and "dead" in line for line in text.splitlines())


def test_a_log_level_brings_the_runs_back(shell: Shell) -> None:
    """With --log-level or --no-progress, a terminal shows each run."""
    shell.send("app:add", "1")
    assert "processed" in shell.on_terminal("run", "app", "--burst", "--log-level", "info")
    shell.send("app:add", "1")
    text = shell.on_terminal("run", "app", "--burst", "--no-progress")
    assert "processed" in text
    assert "waiting" not in text


def test_a_paused_burst_says_why_it_ran_nothing(shell: Shell) -> None:
    """The log line has the command that ends the pause."""
    shell.send("app:add", "1")
    shell("pause")
    lines = shell.burst()
    assert any(f"paused {shell.mail}: no task is started until 'unspool resume" in line for line in lines)
    assert lines[-1].endswith(f"stopped: 0 tasks run; {shell.mail} is paused, with 1 ready")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stop_lets_what_runs_end(shell: Shell, number: signal.Signals) -> None:
    """After TERM or INT, the running task ends, the next one does not begin, and the status is 0."""
    gate = shell.gate()
    shell.send("app:hold", json.dumps(str(gate)))
    running = shell.start("app")
    running.wait_for_output("holding")
    waiting = shell.send("app:add", "1")

    running.process.send_signal(number)
    running.wait_for("stopping after the running tasks")
    gate.write_text("go")

    running.wait_for("processed")
    assert running.end() == 0
    assert [entry["id"] for entry in shell.json("ls")] == [waiting]


@pytest.mark.parametrize("numbers", [[signal.SIGTERM, signal.SIGINT], [signal.SIGQUIT]])
def test_stop_at_once(shell: Shell, numbers: list[signal.Signals]) -> None:
    """A second TERM or INT, or QUIT, kills a task that does not end. It is not lost, and the status is 0."""
    id = shell.send("app:hold", json.dumps(str(shell.gate())))
    running = shell.start("app")
    running.wait_for_output("holding")

    for number, said in zip(numbers, ["stopping after", "stopping at once"][-len(numbers) :], strict=True):
        running.process.send_signal(number)
        running.wait_for(said)

    assert running.end() == 0
    [entry] = shell.json("ls")
    assert (entry["id"], entry["state"], entry["attempts"]) == (id, "ready", 1)


def test_hup_brings_fresh_workers(shell: Shell) -> None:
    """After HUP, the application is imported again, so a changed task runs its new code."""
    running = shell.start("app", "--log-format", "json")
    running.wait_for("started")
    (shell.root / "app.py").write_text("from unspool import Spooler\n@Spooler.task\ndef fresh(): return True\n")
    shell.send("app:fresh")
    running.wait_for("app:fresh")

    running.process.send_signal(signal.SIGHUP)
    running.wait_for('"reloaded"')
    shell.send("app:fresh")

    running.wait_for(lambda line: "app:fresh" in line and "processed" in line)
    running.process.send_signal(signal.SIGTERM)
    assert running.end() == 0


def test_reload_on_change(shell: Shell) -> None:
    """--reload does the same when a file of the application is written."""
    running = shell.start("app.py", "--reload")
    running.wait_for("started")

    (shell.root / "app.py").write_text("from unspool import Spooler\n@Spooler.task\ndef fresh(): return True\n")

    running.wait_for("reloaded")


@pytest.mark.parametrize(
    ("source", "wanted"),
    [
        ("import os\n\ndef broken(:\n    pass\n", r"app\.py:3: SyntaxError"),
        ("import os\nraise RuntimeError('first\\nsecond')\n", r"app\.py:2: RuntimeError: first second"),
        ("import no_such_module_here\n", r"app\.py:1: ModuleNotFoundError"),
        ("import sys\nsys.exit(4)\n", r"app\.py:2: SystemExit: 4"),
    ],
)
def test_an_app_that_does_not_import(shell: Shell, source: str, wanted: str) -> None:
    """The status is 2, and one line names file, line and error. No task is started, and all stay."""
    shell.send("app:add", "1")
    (shell.root / "app.py").write_text(source)

    assert re.search(wanted, shell.error("run", "app.py", "--processes", "2", status=2))
    assert len(shell.json("ls")) == 1


def test_an_app_that_is_not_there(shell: Shell) -> None:
    """A module, file or attribute that does not exist is status 2."""
    for app in ("nowhere", "nowhere.py", "app:nothing", ":"):
        assert "cannot be imported" in shell.error("run", app, status=2)


def test_a_spooler_that_cannot_be_used(shell: Shell) -> None:
    """A file, or a directory that everyone can write to, is status 3, with the reason."""
    (shell.root / "file").write_text("")
    (shell.root / "open").mkdir()
    (shell.root / "open").chmod(0o777)

    for words in (["run", "app"], ["ls"], ["enqueue", "app:add", "1"], ["pause"]):
        assert "it is a file" in shell.error(*words, "--spooler", "./file", status=3)
        assert "written by everybody" in shell.error(*words, "--spooler", "./open", status=3)


def test_tasks_of_a_given_spooler_may_send_tasks(shell: Shell) -> None:
    """With --spooler and no configured spooler, a task that sends another one finds the same spooler."""
    (shell.root / "chain.py").write_text(
        "from unspool import Spooler\n"
        "@Spooler.task\n"
        "def last(): return True\n"
        "@Spooler.task\n"
        "def first():\n"
        "    last()\n"
        "    return True\n"
    )
    shell("enqueue", "chain:first", "--spooler", "./here", UNSPOOL_SPOOLERS="")

    shell("run", "chain", "--burst", "--spooler", "./here", UNSPOOL_SPOOLERS="")

    runs = shell.json("history", "--spooler", "./here", UNSPOOL_SPOOLERS="")
    assert [(run["task"], run["verdict"]) for run in runs] == [
        ("chain:last", "processed"),
        ("chain:first", "processed"),
    ]


def test_one_supervisor_serves_several_spoolers(shell: Shell) -> None:
    """--spooler may be repeated. A directory that is named twice is served once."""
    one = shell.send("app:add", "1", "--spooler", "./one")
    two = shell.send("app:add", "1", "--spooler", "./two")

    words = [word for name in ("./one", "./two", "./one/") for word in ("--spooler", name)]
    lines = shell.burst(*words, "--log-format", "json")

    assert {json.loads(line)["id"] for line in lines if "processed" in line} == {one, two}
    assert lines[0].count("/one") == 1
