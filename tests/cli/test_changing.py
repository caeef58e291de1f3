"""``retry``, ``rm``, ``purge``, ``pause``, ``resume`` and ``set-period``: the changes of a queue."""

import json
import os
import time
from pathlib import Path

import pytest

from .conftest import Shell


def bury(shell: Shell, number: int) -> list[str]:
    """Create dead tasks, and return their ids."""
    for _ in range(number):
        shell.send("app:fail")
    shell.burst()
    return [entry["id"] for entry in shell.json("ls", "--state", "dead")]


def test_retry_brings_a_dead_task_back(shell: Shell) -> None:
    """The task is ready again, with its attempts reset, under the printed id."""
    [dead] = bury(shell, 1)

    id = shell("retry", dead).strip()

    [entry] = shell.json("ls")
    assert (entry["id"], entry["state"], entry["attempts"], entry["reason"]) == (id, "ready", 0, "")


def test_retry_makes_a_waiting_task_due(shell: Shell) -> None:
    """A deferred task becomes ready, also by its bare name."""
    id = shell.send("app:add", "1", "--in", "1d", "--priority", "3")

    renewed = shell("retry", Path(id).name).strip()

    [entry] = shell.json("ls")
    assert (entry["id"], entry["state"], entry["priority"]) == (renewed, "ready", 3)


def test_retry_all_dead(shell: Shell) -> None:
    """All dead tasks, and no others, are retried."""
    bury(shell, 3)
    later = shell.send("app:add", "1", "--in", "1h")

    assert len(shell("retry", "--all-dead").splitlines()) == 3
    assert [entry["state"] for entry in shell.json("ls")] == ["ready"] * 3 + ["deferred"]
    assert shell.json("ls")[3]["id"] == later
    assert shell("retry", "--all-dead") == ""


def test_what_is_not_there_does_not_keep_the_rest_from_being_done(shell: Shell) -> None:
    """Each of several ids is tried. A missing task is reported, and the status is 1."""
    one, two = shell.send("app:add", "1"), shell.send("app:add", "1")
    gone = f"{one}9"

    done = shell.result("rm", one, gone, two)

    assert (done.returncode, done.stdout) == (1, f"{one}\n{two}\n")
    assert done.stderr == f"unspool: error: no task {gone}\n"
    assert shell.json("ls") == []
    assert shell.error("retry", gone, status=1) == f"no task {gone}"


def test_short_ids(shell: Shell) -> None:
    """Each command accepts the short id that a terminal shows, for a waiting, a dead and an ended task. If several
    tasks match, an error names them, and the command continues with the other ids.
    """

    def own(id: str) -> str:
        return "_".join(id.rsplit("_", 5)[1:4])

    shell.send("app:fail", "--priority", "5")
    ended = shell.send("app:add", "1")
    [dead] = bury(shell, 0)
    later, one, two = shell.send("app:add", "1", "--in", "1d"), shell.send("app:add", "1"), shell.send("app:add", "2")
    assert shell.json("show", own(dead))["id"] == dead
    assert shell.json("show", Path(dead).name)["id"] == dead
    assert shell.json("history", own(ended))[0]["id"] == ended
    assert shell.json("history", own(dead))[0]["task"] == "app:fail"
    for command in ("show", "rm", "retry"):
        assert f"no task {own(ended)} now: it was processed at" in shell.error(command, own(ended), status=1)
    renewed = shell("retry", own(later)).strip()
    assert renewed != later
    assert shell.json("show", own(later))["id"] == renewed

    end = "1795678695_123456"
    for id in (one, two):
        os.rename(id, f"{id.rsplit('_', 2)[0]}_{end}")
    done = shell.result("rm", end, own(renewed))
    assert (done.returncode, done.stdout) == (1, f"{renewed}\n")
    assert f"error: several tasks have {end} in their ids: " in done.stderr
    for command in ("show", "history"):
        assert own(two) in shell.error(command, end, status=1)


def test_rm_touches_nothing_but_tasks(shell: Shell) -> None:
    """A file that is not a task is reported as missing, wherever it is, and stays."""
    stranger = shell.root / "important"
    stranger.write_text("mine")
    shell.send("app:add", "1")
    inside = shell.mail / "notes"
    inside.write_text("mine")

    for path in (stranger, inside, shell.mail, shell.mail / ".unspool/run"):
        shell.error("rm", str(path), status=1)

    assert stranger.exists()
    assert inside.exists()


@pytest.mark.parametrize(
    "words",
    [
        ["retry"],
        ["retry", "x", "--all-dead"],
        ["retry", "x", "--all-corrupt"],
        ["rm"],
        ["purge"],
        ["purge", "--state", "running"],
    ],
)
def test_changes_need_their_words(shell: Shell, words: list[str]) -> None:
    """Missing or contradicting arguments are status 2."""
    shell.error(*words, status=2)


def test_purge_deletes_a_state(shell: Shell) -> None:
    """Only tasks in the given state are deleted, also if a variable gives the state. The ids and the number are
    printed.
    """
    one, two = bury(shell, 2)
    ready, later = shell.send("app:add", "1"), shell.send("app:add", "1", "--in", "1h")

    assert shell("purge", UNSPOOL_PURGE_STATE="dead", UNSPOOL_PURGE_YES="1") == f"{one}\n{two}\ndeleted 2 tasks\n"
    assert [entry["id"] for entry in shell.json("ls")] == [ready, later]
    assert shell("purge", "--state", "dead") == "deleted 0 tasks\n"


def test_purge_spares_the_young(shell: Shell) -> None:
    """--older-than compares the time at which a task was last due."""
    old, young = bury(shell, 2)
    os.utime(old, (time.time() - 90_000,) * 2)

    assert shell("purge", "--state", "dead", "--older-than", "1d", "--yes") == f"{old}\ndeleted 1 task\n"
    assert [entry["id"] for entry in shell.json("ls")] == [young]


def test_purge_asks(shell: Shell) -> None:
    """Without --yes, a person is asked and a script is refused. Tasks are deleted only if the answer is yes."""
    shell.send("app:add", "1")

    assert "delete 1 task; add --yes" in shell.error("purge", "--state", "ready", status=2)
    question = "Delete 1 task (ready) for good?"
    text = shell.on_terminal("purge", "--state", "ready", answer=(question, "n\n"), status=1)
    assert "nothing was deleted" in text
    assert len(shell.json("ls")) == 1
    assert "deleted 1 task" in shell.on_terminal("purge", "--state", "ready", answer=(question, "y\n"))


def test_pause_and_resume(shell: Shell) -> None:
    """During a pause, a worker starts no task and status shows the pause; after resume, it starts one at once."""
    shell.send("app:add", "1")

    assert shell("pause") == f"paused {shell.mail}\n"
    assert shell.json("status")["spoolers"][0]["paused"] is True
    assert "paused" in shell("doctor", status=1)
    shell.burst()
    assert len(shell.json("ls")) == 1
    running = shell.start("app")
    running.wait_for("started")
    assert shell("resume") == f"resumed {shell.mail}\n"
    running.wait_for("processed")
    assert shell.json("status")["spoolers"][0]["paused"] is False


@pytest.mark.parametrize("period", ["1e9", "1e300", "inf", "nan", "-3", "x"])
def test_a_period_longer_than_any_wait(shell: Shell, period: str) -> None:
    """Workers run with the longest period that can be set, and with any content of the file."""
    (shell.mail / ".unspool/run").mkdir(parents=True, mode=0o700)
    (shell.mail / ".unspool/run/period").write_text(period)
    running = shell.start("app", "--burst", UNSPOOL_HISTORY_LIMIT="0")
    assert running.end() == 0, running.seen
    running = shell.start("app")
    running.wait_for("started")
    id = shell.send("app:add", "1")
    running.wait_for(os.path.basename(id))


def test_set_period(shell: Shell) -> None:
    """status shows the period. A value that is not a positive number is refused."""
    assert shell("set-period", "12.5") == f"period of {shell.mail} is 12.5 s\n"
    assert shell.json("status")["spoolers"][0]["period"] == 12.5
    for wrong in ("-1", "nan", "often"):
        shell.error("set-period", wrong, status=2)
    assert shell.json("status")["spoolers"][0]["period"] == 12.5


@pytest.mark.parametrize("words", [["pause"], ["resume"], ["set-period", "5"]])
def test_switches_of_a_mistyped_spooler(shell: Shell, words: list[str]) -> None:
    """A spooler that neither exists nor is configured is not created, and a file is not a spooler."""
    typo = shell.root / "mial"
    assert "no spooler is named 'mial' (configured: mail)" in shell.error(*words, "--spooler", "mial", status=2)
    assert f"no spooler {typo}: it does not exist" in shell.error(*words, "--spooler", "./mial", status=1)
    assert not typo.exists()
    assert "it is a file" in shell.error(*words, "--spooler", str(shell.root / "app.py"), status=3)
    shell(*words)
    assert shell.mail.is_dir()


def test_a_directory_with_the_name_of_a_task(shell: Shell) -> None:
    """The task is listed, is neither deleted nor moved, and does not affect the others."""
    (shell.mail / "uwsgi_spoolfile_on_a").mkdir(parents=True)
    (shell.mail / "uwsgi_spoolfile_on_b").symlink_to("nowhere")

    assert "is a directory, not a task" in shell.error("rm", "uwsgi_spoolfile_on_a", status=1)
    assert "is a directory, not a task" in shell.error("retry", "uwsgi_spoolfile_on_a", status=1)
    assert "is not a regular file" in shell.error("retry", "uwsgi_spoolfile_on_b", status=1)
    (shell.mail / ".unspool/dead/uwsgi_spoolfile_on_c").mkdir(parents=True)
    [dead] = bury(shell, 1)[1:]
    done = shell.result("purge", "--state", "corrupt", "--state", "dead", "--yes")
    assert (done.returncode, done.stderr.count("is a directory, not a task")) == (1, 2)
    assert done.stdout == f"{shell.mail}/uwsgi_spoolfile_on_b\n{dead}\ndeleted 2 tasks\n"
    left = shell.json("ls")
    assert [Path(entry["id"]).name[-4:] for entry in left] == ["on_a", "on_c"]
    assert [entry["reason"] for entry in left] == ["a directory, not a regular file"] * 2


def test_what_is_not_a_task_is_never_moved_as_one(shell: Shell) -> None:
    """Of all files among the dead tasks, only tasks are retried. The directory of a priority, a note and any other file
    stay, and each is an error.
    """
    shell.send("app:fail", "--priority", "5")
    ranked, plain = bury(shell, 1)
    dead = shell.mail / ".unspool/dead"
    (dead / "uwsgi_spoolfile_on_lost.reason").write_text("{}")
    (dead / "notes").mkdir()
    (dead / "notes/x").write_text("mine")
    (dead / "notes/uwsgi_spoolfile_on_x").write_text("mine")
    before = sorted(shell.mail.rglob("*"))

    inside = ("", "/5", "/notes", "/notes/x", "/notes/uwsgi_spoolfile_on_x", "/uwsgi_spoolfile_on_lost.reason")
    odd = [*(f"{dead}{path}" for path in inside), "uwsgi_spoolfile_on_lost.reason"]
    for command in ("retry", "rm"):
        done = shell.result(command, *odd)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", len(odd))
    for id in odd[:1] + odd[4:]:
        shell.error("show", id, status=1)
    assert shell.error("retry", f"{dead}/5", status=1) == f"{dead}/5 is a directory, not a task"
    assert sorted(shell.mail.rglob("*")) == before

    done = shell.result("retry", *map(str, sorted(dead.iterdir())))
    assert (done.returncode, done.stdout) == (1, f"{shell.mail}/{Path(plain).name}\n")
    assert f"unspool: error: {dead}/5 is a directory, not a task\n" in done.stderr
    assert [(entry["id"], entry["state"]) for entry in shell.json("ls")] == [
        (f"{shell.mail}/{Path(plain).name}", "ready"),
        (ranked, "dead"),
    ]
    assert shell("retry", "--all-dead").splitlines() == [f"{shell.mail}/5/{Path(ranked).name}"]


def test_an_unusable_priority_keeps_no_other_task(shell: Shell) -> None:
    """Dead tasks of a priority whose directory is now a file are errors. All others are ready again."""
    shell.send("app:fail", "--priority", "5")
    ranked, plain = bury(shell, 1)
    (shell.mail / "5").rmdir()
    (shell.mail / "5").write_text("mine")

    for words in (["retry", "--all-dead"], ["retry", ranked, plain]):
        done = shell.result(*words)
        assert (done.returncode, done.stdout) == (1, f"{shell.mail}/{Path(plain).name}\n"), done.stderr
        assert done.stderr.count("\n") == 1
        assert f"error: task {ranked} cannot be changed" in done.stderr
        assert "its directory 5" in done.stderr
        (shell.mail / Path(plain).name).rename(plain)
    assert (shell.mail / "5").read_text() == "mine"


def test_a_name_that_is_taken(shell: Shell) -> None:
    """Dead tasks with the same name, which a waiting task also has, all become ready beside it."""
    dead = shell.mail / ".unspool/dead"
    dead.mkdir(parents=True)
    for path in (shell.mail / "uwsgi_spoolfile_on_a", dead / "uwsgi_spoolfile_on_a", dead / "uwsgi_spoolfile_on_a~2"):
        path.write_bytes(b"\x11\x00\x00\x00")

    assert len(shell("retry", "--all-dead").splitlines()) == 2
    assert [entry["state"] for entry in shell.json("ls")] == ["ready"] * 3


def test_bulk_changes_report_ids(shell: Shell) -> None:
    """Each command prints the ids of the tasks that it changed, as lines or as a JSON array, also after errors or if
    there is nothing to do.
    """
    one, two, three = bury(shell, 3)
    gone = f"{one}9"

    assert json.loads(shell.result("rm", one, gone, "--json").stdout) == [one]
    assert shell.json("purge", "--state", "dead", "--older-than", "1h", "--yes") == []
    ready = [f"{shell.mail}/{Path(id).name}" for id in (two, three)]
    assert shell.json("retry", "--all-dead") == ready
    assert shell.json("purge", "--state", "ready", "--yes") == ready
    assert shell.json("retry", "--all-dead") == []
    assert shell.json("ls") == []


def test_retry_all_corrupt(shell: Shell) -> None:
    """All corrupt tasks are retried, with both options also all dead ones. A task that cannot be retried is reported,
    and does not stop the others.
    """
    corrupt = shell.mail / ".unspool/corrupt"
    [dead] = bury(shell, 1)
    for name in ("uwsgi_spoolfile_on_a", "uwsgi_spoolfile_on_b"):
        (corrupt / name).write_bytes(Path(dead).read_bytes())

    assert shell("retry", "--all-corrupt").splitlines() == [f"{shell.mail}/uwsgi_spoolfile_on_{x}" for x in "ab"]
    assert [entry["state"] for entry in shell.json("ls")] == ["ready", "ready", "dead"]
    (shell.mail / "uwsgi_spoolfile_on_a").rename(corrupt / "uwsgi_spoolfile_on_a")
    (shell.mail / "uwsgi_spoolfile_on_link").symlink_to("nowhere")
    done = shell.result("retry", "--all-corrupt", "--all-dead")
    assert (done.returncode, len(done.stdout.splitlines())) == (1, 2)
    assert "uwsgi_spoolfile_on_link is not a regular file" in done.stderr
    assert [entry["state"] for entry in shell.json("ls")] == ["ready"] * 3 + ["corrupt"]
