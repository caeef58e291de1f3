"""``ls``, ``show``, ``history`` and ``status``: their content, and its form."""

import json
import os
import re
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from datetime import datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from rich.cells import cell_len

from unspool import Spooler, registry, settings, wire
from unspool.message import Record

from .conftest import SCRIPT, Shell

ENTRY = {"id", "state", "spooler", "task", "priority", "due", "attempts", "reason", "size"}
STATUS = ["name", "ready", "deferred", "running", "dead", "corrupt", "workers", "paused", "period", "oldest"]
WIDE = 5000  # columns of a terminal on which nothing is cut: a path has 4096 bytes at most


def test_ls_json_tells_each_task_in_the_order_of_running(shell: Shell) -> None:
    """An array of objects with the documented keys: ready by priority, then deferred, then dead letters."""
    later = shell.send("app:add", "1", "--in", "1h")
    plain = shell.send("app:add", "1")
    failing = shell.send("app:fail", "--priority", "3")
    shell.burst("--max-tasks", "100")
    second = shell.send("app:add", "2")
    first = shell.send("app:add", "2", "--priority", "0")

    found = shell.json("ls")

    assert [one["state"] for one in found] == ["ready", "ready", "deferred", "dead"]
    assert [one["id"] for one in found][:3] == [first, second, later]
    assert all(set(one) == ENTRY for one in found)
    dead = found[3]
    assert dead["id"] == str(shell.mail / ".unspool/dead/3" / Path(failing).name)
    assert (dead["task"], dead["priority"], dead["attempts"], dead["reason"]) == (
        "app:fail",
        3,
        1,
        "ValueError: no luck",
    )
    assert dead["spooler"] == str(shell.mail)
    assert found[1]["priority"] is None
    assert isinstance(found[2]["due"], float)
    assert found[2]["due"] > time.time() + 3000
    assert plain not in {one["id"] for one in found}


def test_ls_piped_is_a_line_a_task(shell: Shell) -> None:
    """In a pipe, there are no headings, colours or alignment: fields separated by tabs, the id first, due in local
    time.
    """
    id = shell.send("app:add", "1", "--priority", "4", "--at", "2030-01-01T00:00:00Z")

    assert shell("ls") == f"{id}\tdeferred\tapp:add\t4\t2030-01-01T01:00:00.000+01:00\t0\t\n"


def test_ls_agrees_with_the_directory(shell: Shell) -> None:
    """Exactly the task files that the system's ``ls`` finds are listed."""
    for priority in range(3):
        shell.send("app:add", "1", "--priority", str(priority))
    shell.send("--message", "hello")

    files = {str(path) for path in shell.mail.rglob("uwsgi_spoolfile_on_*")}

    assert {line.split("\t")[0] for line in shell("ls").splitlines()} == files
    assert len(files) == 4


def test_ls_takes_states_and_a_limit(shell: Shell) -> None:
    """Options filter the tasks, also if variables give them."""
    shell.send("app:add", "1")
    late = shell.send("app:add", "1", "--in", "1d")
    later = shell.send("app:add", "1", "--in", "2d")

    assert [one["id"] for one in shell.json("ls", "--state", "deferred")] == [late, later]
    assert [one["id"] for one in shell.json("ls", UNSPOOL_LS_STATE="deferred", UNSPOOL_LS_LIMIT="1")] == [late]
    assert len(shell.json("ls", "--state", "ready", "--state", "deferred")) == 3
    assert shell.json("ls", "--state", "dead") == []
    assert shell("ls", "--limit", "0") == ""


def test_ls_covers_several_spoolers(shell: Shell) -> None:
    """All configured spoolers are listed, or those of --spooler, given by path, relative path or base name."""
    other = shell.root / "other"
    both = f"{shell.mail},{other}"
    one = shell.send("app:add", "1")
    two = shell.send("app:add", "1", "--spooler", "./other")

    assert [entry["id"] for entry in shell.json("ls", UNSPOOL_SPOOLERS=both)] == [one, two]
    assert [entry["id"] for entry in shell.json("ls", UNSPOOL_SPOOLERS=both, UNSPOOL_LS_LIMIT="1")] == [one]
    for name in ("other", "./other", str(other)):
        assert [entry["id"] for entry in shell.json("ls", "--spooler", name, UNSPOOL_SPOOLERS=both)] == [two]
    assert len(shell.json("ls", UNSPOOL_LS_SPOOLER=both)) == 2


def test_ls_on_a_terminal_is_a_table(shell: Shell) -> None:
    """On a terminal, there are headings, short ids that show accepts, and a relative time."""
    id = shell.send("app:add", "1", "--in", "90m")

    text = shell.on_terminal("ls", columns=WIDE)

    assert str(shell.mail) in text
    assert "STATE" in text
    assert "REASON" in text
    assert "in 1h29m" in text
    [short] = [word for word in text.split() if word.count("_") == 2 and word in id]
    assert shell.json("show", short)["id"] == id


def _plain(text: str) -> list[str]:
    return re.sub(r"\x1b\[[0-9;]*m", "", text).splitlines()


def test_listings_fit_the_terminal(shell: Shell) -> None:
    """Each row of ls, history, status and status --workers is one line that fits the terminal. No id is cut, however
    long the tasks, reasons and names of spoolers are. A pipe gets everything.
    """
    shell.send("app:fail", json.dumps("a \N{SNOWMAN} \N{CJK UNIFIED IDEOGRAPH-6F22} " * 40), "--priority", "123456789")
    shell.send("app:add", "1")
    shell.burst()
    shell.send("app:add", "1", "--in", "90m")
    shell.send("--message", "m" * 150)
    both = f"{shell.mail},{shell.root / 'other'}"
    for words, rows in ((["ls"], 3), (["history"], 2), (["status"], 2), (["status", "--workers"], 0)):
        ids = [one["id"] for one in (shell.json(*words) if words[0] in ("ls", "history") else [])]
        for columns in (0, 60, 80, 110):
            lines = _plain(shell.on_terminal(*words, columns=columns, UNSPOOL_SPOOLERS=both))
            lines = [line for line in lines if not line.startswith("unspool: ")]
            named = words == ["ls"]
            assert len(lines) == named + bool(rows) + rows, (columns, lines)
            assert all(cell_len(line) <= max(columns or 80, 76) for line in lines), (columns, lines)
            for id in ids:
                assert "_".join(id.rsplit("_", 5)[1:4]) in "\n".join(lines)
    assert "\N{SNOWMAN}" in shell("history")
    assert all(len(line) > 100 for line in shell("ls").splitlines())
    assert "PRIO" in shell.on_terminal("ls", columns=WIDE)


def test_history_of_several_spoolers_on_a_terminal(shell: Shell) -> None:
    """With several spoolers, each run has its own. Short ids are made among the tasks of each spooler."""
    shell.send("app:add", "1")
    shell.burst()
    shell.send("app:add", "1", "--spooler", "./other")
    shell.burst("--spooler", "./other")
    heading, *rows = _plain(shell.on_terminal("history", columns=WIDE, UNSPOOL_SPOOLERS=f"{shell.mail},./other"))
    assert "SPOOLER" in heading
    assert [str(shell.root / name) in row for name, row in zip(("other", "mail"), rows, strict=True)] == [True, True]
    assert "SPOOLER" not in shell.on_terminal("history", columns=WIDE)


def test_colours_only_where_they_are_wanted(shell: Shell) -> None:
    """A terminal gets colours, unless NO_COLOR is set. A pipe gets none."""
    shell.send("app:add", "1")

    assert "\x1b[32mready" in shell.on_terminal("ls")
    assert "\x1b[3" not in shell.on_terminal("ls", NO_COLOR="1")
    assert "\x1b" not in shell("ls") + shell("status")


def test_ls_of_a_spooler_that_was_never_used(shell: Shell) -> None:
    """A missing spooler is empty, which is not an error. It is not created, and a person is told."""
    done = shell.result("ls", "--json")

    assert (done.returncode, done.stdout) == (0, "[]\n")
    assert "does not exist yet" in done.stderr
    assert not shell.mail.exists()


def test_a_closed_pipe_ends_quietly(shell: Shell) -> None:
    """``unspool ls | head`` prints no error, and has the status of a program that SIGPIPE ended."""
    for _ in range(2):
        shell.send("app:add", "1")
    for words in (["ls"], ["ls", "--json"], ["status"], ["history"], ["doctor"]):
        reader, writer = os.pipe()
        os.close(reader)
        done = subprocess.run(
            [SCRIPT, *words], cwd=shell.root, env=shell.env, stdout=writer, stderr=subprocess.PIPE, check=False
        )
        os.close(writer)
        assert done.stderr == b"", words
        assert done.returncode == (0 if words == ["history"] else 141), words


def test_hostile_names_and_messages_are_shown_not_sent(shell: Shell) -> None:
    """Control characters in a message, and bytes in a file name that are not text, neither reach the terminal nor break
    a line.
    """
    shell.send("--message", "a\x1b[31m\tb\nc")
    odd = os.fsencode(shell.mail) + b"/uwsgi_spoolfile_on_\xff\n_1"
    with open(odd, "wb") as file:
        file.write(b"\x11\x00\x00\x00")

    lines = shell("ls").splitlines()

    assert len(lines) == 2
    assert all(line.count("\t") == 6 for line in lines)
    assert "\x1b" not in "".join(lines)
    assert "a\\x1b[31m\\tb\\nc" in "".join(lines)
    assert len(shell.json("ls")) == 2
    assert "\x1b[31m" not in shell.on_terminal("ls", NO_COLOR="1")


@pytest.mark.parametrize(
    "locale",
    [
        {},
        {"PYTHONIOENCODING": "ascii"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    ],
)
def test_no_locale_ends_a_listing(shell: Shell, locale: dict[str, str]) -> None:
    """Each task is listed in every encoding of stdout: lone surrogates and characters that it lacks are escaped. In a
    pipe, an id that is not text is the exact file name, which commands accept.
    """
    shell.send("--message", "\N{SNOWMAN}")
    odd = os.fsencode(shell.mail) + b"/uwsgi_spoolfile_on_\xff_1"
    with open(odd, "wb") as file:
        file.write(b"\x11\x00\x00\x00")
    dead = shell.mail / ".unspool/dead"
    (dead / "uwsgi_spoolfile_on_x_1").write_bytes(b"\x11\x00\x00\x00")
    (dead / "uwsgi_spoolfile_on_x_1.reason").write_text('{"reason": "half \\ud83d\\u0000"}')

    shell("show", str(dead / "uwsgi_spoolfile_on_x_1"), **locale)
    listed = shell("ls", **locale).splitlines()
    assert len(listed) == 3
    assert listed[2].endswith("\thalf \\ud83d\\x00")
    [id] = [line.split("\t")[0] for line in listed if os.fsencode(line.split("\t")[0]) == odd]
    assert shell("rm", id, **locale) == f"{id}\n"
    assert not os.path.exists(odd)
    assert "half \\ud83d\\x00" in shell.on_terminal("ls", COLUMNS=str(WIDE), **locale)


def test_show_json_has_all_that_is_known(shell: Shell) -> None:
    """The keys of ls and more: decoded variables, sizes, and the history with its tracebacks."""
    id = shell.send("app:stumble")
    shell.burst()

    found = shell.json("show", id)

    assert set(found) >= {*ENTRY, "vars", "message", "serializer", "body_size", "history"}
    assert (found["state"], found["attempts"], found["task"]) == ("deferred", 1, "app:stumble")
    assert found["vars"]["unspool_task"] == "app:stumble"
    assert found["serializer"] == "pickle"
    [run] = found["history"]
    assert run["verdict"] == "rescheduled"
    assert run["reason"] == "ValueError: try me later"
    assert run["traceback"].startswith("Traceback")
    assert run["traceback"].endswith("ValueError: try me later")


def test_show_never_unpickles(shell: Shell) -> None:
    """Listing, showing and checking a task does not run the code of its pickle."""
    proof = shell.root / "proof"
    code = (
        "import os, sys\nfrom unspool import Spooler\n"
        "class Bomb:\n    def __reduce__(self): return (os.mkdir, (sys.argv[1],))\n"
        "print(Spooler.send_message_raw('bomb', payload=Bomb()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, proof.name],
        cwd=shell.root,
        env=shell.env,
        capture_output=True,
        text=True,
        check=True,
    )
    id = done.stdout.strip()

    for words in (["ls"], ["show", id], ["show", "--json", id], ["status"], ["history", id]):
        shell(*words)
    assert "call:     bomb(posix.mkdir('proof'))" in shell("show", id)
    assert "1 ready" in shell("doctor", status=1)  # with no worker, which is a warning

    assert not proof.exists()


def test_show_prints_what_a_person_needs(shell: Shell) -> None:
    """State, reason, attempts, due time in both forms, and the traceback. A dead task is also found by its
    former id.
    """
    id = shell.send("app:fail", '"broken glass"', "--priority", "9")
    shell.burst()

    text = shell("show", id)

    for wanted in (
        "call:     fail('broken glass')",
        "state:    dead",
        "reason:   ValueError: broken glass",
        "attempts: 1",
        "priority: 9",
        "Traceback",
        "raise ValueError(text)",
    ):
        assert wanted in text
    due, relative = text.partition("due:")[2].split()[:2]
    assert datetime.fromisoformat(due).utcoffset() is not None
    assert relative.startswith("(")


def test_show_the_arguments(shell: Shell) -> None:
    """Pickled arguments of waiting and dead tasks are an outline, in one line and without control characters. On a
    terminal, a dead task is shown with the possible commands.
    """
    id = shell.send("app:add", '["a", {"b": null}]', 'b="\\u001b[31m\\n"')
    wanted = "add(['a', {'b': None}], b='\\x1b[31m\\n')"
    assert f"call:     {wanted}\n" in shell("show", id)
    assert shell.json("show", id)["call"] == wanted
    shell.send("app:fail", json.dumps("x" * 10_000))
    shell.burst()
    [dead] = shell.json("ls", "--state", "dead")
    text = shell.on_terminal("show", dead["id"])
    assert f"fail('{'x' * 100}…')" in text
    short = "_".join(dead["id"].rsplit("_", 5)[1:4])
    assert f"'unspool retry {short}' runs it again, 'unspool rm {short}' deletes it" in text
    assert shell.result("show", dead["id"]).stderr == ""


def test_show_a_json_body(shell: Shell) -> None:
    """A JSON task is shown with its arguments, because reading JSON runs no code."""
    id = shell("enqueue", "--app", "app", "app:urgent", '"ann"', "copies=2").strip()

    shown = shell.json("show", id)
    body = shown["body"]

    assert shown["call"] is None
    assert body["payload"]["arg"] == ["ann"]
    assert body["payload"]["kwg"] == {"copies": 2}


def test_show_a_task_that_is_not_there(shell: Shell) -> None:
    """The status is 1. If the task has run, the message says when and how it ended."""
    id = shell.send("app:add", "1")
    shell.burst()
    settings.configure(spoolers=[str(shell.mail)], durability="relaxed")
    registry.backend().record([Record(id, "app:add", "processed", 2, 4e9, 20.0, 1)])

    ended = datetime.fromtimestamp(4e9 + 20, ZoneInfo("Europe/Berlin")).isoformat()
    assert f"it was processed at {ended};" in shell.error("show", id, status=1)
    assert shell.error("show", f"{id}9", status=1) == f"no task {id}9"
    assert shell.error("show", "no-such", status=1) == "no task no-such"


def test_a_copy_that_lost_its_time(shell: Shell) -> None:
    """A copy of a deferred task with the current mtime is due at the time in its name, as listings show."""
    id = Path(shell.send("app:add", "1", "--in", "1d"))
    due = id.stat().st_mtime
    os.utime(id)

    [entry] = shell.json("ls")
    assert (entry["state"], entry["due"]) == ("deferred", pytest.approx(due, abs=0.001))
    assert shell.json("show", str(id))["state"] == "deferred"
    assert shell.json("status")["spoolers"][0]["deferred"] == 1
    assert "stopped" in shell.burst()[-1]
    assert len(shell.json("ls")) == 1


def test_show_without_configuration(shell: Shell) -> None:
    """A path identifies the spooler, also for a priority and a dead task, and nothing is created."""
    plain = shell.send("app:add", "1")
    first = shell.send("app:fail", "--priority", "5")
    before = {path for path in shell.mail.rglob("*") if path.is_dir()}

    for id, priority in ((plain, None), (first, 5)):
        found = shell.json("show", id, UNSPOOL_SPOOLERS="")
        assert (found["id"], found["spooler"], found["priority"]) == (id, str(shell.mail), priority)
    assert {path for path in shell.mail.rglob("*") if path.is_dir()} == before
    shell.burst()
    [dead] = shell.json("ls", "--state", "dead")
    found = shell.json("show", os.path.relpath(dead["id"], shell.root), UNSPOOL_SPOOLERS="")
    assert (found["state"], found["spooler"]) == ("dead", str(shell.mail))
    assert "no spooler is configured" in shell.error("show", "uwsgi_spoolfile_on_x", status=2, UNSPOOL_SPOOLERS="")


def test_a_running_task_shows_its_worker(shell: Shell) -> None:
    """A running task is listed as running, with its process, and cannot be removed."""
    gate = shell.gate()
    id = shell.send("app:hold", json.dumps(str(gate)))
    running = shell.start("app")
    running.wait_for_output("holding")

    [entry] = shell.json("ls", "--state", "running")
    found = shell.json("show", id)
    counted = shell.json("status")["spoolers"][0]

    assert entry["id"] == id
    assert found["worker"]["pid"] > 0
    assert f"in process {found['worker']['pid']}" in shell("show", id)
    assert (counted["running"], counted["workers"]) == (1, 1)
    for text in (shell("status", "--workers"), shell.on_terminal("status", "--workers", columns=WIDE)):
        assert "app:hold" in text
    short = "_".join(id.rsplit("_", 5)[1:4])
    assert short in shell.on_terminal("status", "--workers")
    [worker] = [one for one in shell.json("status", "--workers")["processes"] if one["role"] == "worker"]
    assert (worker["task"], worker["id"]) == ("app:hold", id)
    assert "is running" in shell.error("rm", id, status=1)
    assert "is running" in shell.error("retry", id, status=1)
    gate.write_text("go")
    running.wait_for("processed")


def test_history_lists_runs(shell: Shell) -> None:
    """Newest first, for all tasks or one, all runs or failed ones, as lines or JSON."""
    good = shell.send("app:add", "1")
    shell.burst()
    bad = shell.send("app:fail")
    shell.burst()

    runs = shell.json("history")

    assert [(run["id"], run["verdict"]) for run in runs] == [(bad, "dead"), (good, "processed")]
    assert set(runs[0]) == {"id", "task", "verdict", "attempt", "started", "duration", "pid", "reason", "traceback"}
    assert [run["id"] for run in shell.json("history", "--failed")] == [bad]
    assert [run["id"] for run in shell.json("history", good)] == [good]
    assert [run["id"] for run in shell.json("history", "--limit", "1")] == [bad]
    assert [run["id"] for run in shell.json("history", shell.json("ls")[0]["id"])] == [bad]
    fields = shell("history", bad).rstrip("\n").split("\t")
    assert fields[1:4] == ["dead", "app:fail", "1"]
    assert fields[6:] == [bad, "ValueError: no luck"]
    assert "VERDICT" in shell.on_terminal("history")


def test_odd_rows_in_the_history(shell: Shell) -> None:
    """history and show omit invalid rows, and escape the values of others."""
    id = shell.send("app:fail")
    shell.burst()
    with closing(sqlite3.connect(shell.mail / ".unspool/history.sqlite3")) as connection, connection:
        insert = "INSERT INTO runs (id, task, verdict, attempt, started, duration, pid, error) VALUES"
        connection.execute(f"{insert} (?, 'b', 'no verdict', 'x', 1, 'y', 'z', '')", [id])
        connection.execute(f"{insert} (?, 'a' || char(27), 'v' || char(27), 1, 1, 1e9, 1, 'x' || char(27))", [id])

    assert len(shell.json("history")) == 2
    for words in (["history"], ["history", "--failed"], ["show", id]):
        shown = shell(*words)
        assert "no verdict" not in shown
        assert "v\\x1b" in shown
        assert "\x1b" not in shown


@pytest.mark.parametrize("words", [["ls"], ["history"]])
def test_a_limit_that_no_number_of_rows_reaches(shell: Shell, words: list[str]) -> None:
    """A limit above the largest number of a server or SQLite is wrong usage."""
    assert "--limit" in shell.error(*words, "--limit", "99999999999999999999", status=2)
    shell(*words, "--limit", str(2**31 - 1))


@pytest.mark.parametrize(
    "note", ["[" * 30_000, '{"reason": [], "attempts": true}', '{"reason": 5, "attempts": "x"}', "[]"]
)
def test_an_odd_note_beside_a_dead_task(shell: Shell, note: str) -> None:
    """A note without a reason only leaves the reason empty."""
    shell.send("app:fail")
    shell.burst()
    [dead] = [Path(entry["id"]) for entry in shell.json("ls")]
    dead.with_name(f"{dead.name}.reason").write_text(note)

    [entry] = shell.json("ls")
    assert (entry["state"], entry["reason"], entry["attempts"]) == ("dead", "", 0)


def test_history_of_what_never_was(shell: Shell) -> None:
    """An unknown task is status 1. A task that has not run has an empty history."""
    id = shell.send("app:add", "1")

    assert "no task" in shell.error("history", f"{id}9", status=1)
    assert shell.json("history", id) == []
    assert shell("history") == ""


def test_history_s_limit_is_not_the_setting(shell: Shell) -> None:
    """UNSPOOL_HISTORY_LIMIT is the number of runs that are kept. The limit of the listing has another variable."""
    for _ in range(3):
        shell.send("app:add", "1")
    shell.burst()

    assert len(shell.json("history", UNSPOOL_HISTORY_LIMIT="1")) == 3
    assert len(shell.json("history", UNSPOOL_HISTORY_ROWS="2")) == 2


def test_a_body_that_is_nested_too_deep(shell: Shell) -> None:
    """A hostile file is shown like any other. Only the size of its body, which cannot be printed, is shown."""
    shell.mail.mkdir(mode=0o700)
    for name, depth in (("deep", 100_000), ("deep enough", 990)):
        id = shell.mail / f"uwsgi_spoolfile_on_{name}_1_1_1_1_1"
        id.write_bytes(wire.dump({"msg": b"x", "unspool_codec": b"json"}, b"[" * depth + b"]" * depth, None))
        assert shell.json("show", str(id))["body_size"] == 2 * depth
        assert "task:     x" in shell("show", str(id))


def test_status_counts(shell: Shell) -> None:
    """The documented object for each spooler, also for one that was never used, and a table for people."""
    other = shell.root / "other"
    shell.send("app:add", "1")
    shell.send("app:add", "1", "--in", "1h")
    both = f"{shell.mail},{other}"

    [mail, empty] = shell.json("status", UNSPOOL_SPOOLERS=both)["spoolers"]

    assert list(mail) == STATUS
    oldest = mail.pop("oldest")
    assert oldest == shell.json("ls", "--state", "ready")[0]["due"]
    assert empty["oldest"] is None
    assert mail == {
        "name": str(shell.mail), "ready": 1, "deferred": 1, "running": 0, "dead": 0, "corrupt": 0,
        "workers": 0, "paused": False, "period": 300.0,
    }  # fmt: skip
    assert (empty["name"], empty["ready"]) == (str(other), 0)
    heading, row = shell("status").splitlines()
    assert heading.split("\t")[:3] == ["SPOOLER", "READY", "DEFERRED"]
    *cells, age = row.split("\t")
    assert cells == [str(shell.mail), "1", "1", "0", "0", "0", "0", "no", "300 s"]
    assert re.fullmatch("[0-9]+[.][0-9] (ms|s)", age)


def test_rich_is_for_terminals_only(shell: Shell) -> None:
    """A command in a pipe does not import rich, which takes time."""
    shell.send("app:add", "1")
    code = "import sys; from unspool.cli import main; main(['ls']); assert 'rich' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=shell.root, env=shell.env, check=True, stdout=subprocess.DEVNULL)


@pytest.mark.parametrize("states", ["deferred,ready", "deferred ready", "deferred, ready"])
def test_states_in_the_environment(shell: Shell, states: str) -> None:
    """Several values are separated by commas, like spoolers, or by spaces."""
    shell.send("app:add", "1")
    shell.send("app:add", "2", "--in", "1h")
    found = {entry["state"] for entry in shell.json("ls", UNSPOOL_LS_STATE=states)}
    assert found == {"ready", "deferred"}
    assert "deleted 2 tasks" in shell("purge", "--yes", UNSPOOL_PURGE_STATE=states)


def test_a_large_task_is_shown_whole(shell: Shell) -> None:
    """show prints the message and the size of the body. A listing reads neither."""
    settings.configure(spoolers=[str(shell.mail)], durability="relaxed")
    id = Spooler.send_message_raw("large", payload=b"x" * (65 << 20))
    shown = shell.json("show", id)
    assert (shown["message"], shown["task"]) == ("large", "large")
    assert shown["body_size"] > 65 << 20
    assert shell.json("ls")[0]["task"] == "large"
    info = Spooler.read_task_file(id)
    assert info["msg"] == "large"
    assert len(info["body"]) == shown["body_size"]


def test_status_without_workers(shell: Shell) -> None:
    """An empty list of processes is reported on a terminal and on stderr beside a pipe. JSON is an empty array."""
    assert "no worker is running" in shell.on_terminal("status", "--workers")
    assert shell.result("status", "--workers").stderr.endswith("unspool: no worker is running\n")
    assert shell.json("status", "--workers") == {"processes": []}
