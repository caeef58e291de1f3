"""``retry``, ``rm``, ``purge``, ``pause``, ``resume`` and ``set-period``: what a person does to a queue."""

import os
import time
from pathlib import Path

import pytest

from .conftest import Shell


def bury(shell: Shell, number: int) -> list[str]:
    """So many dead tasks; their ids."""
    for _ in range(number):
        shell.send("app:fail")
    shell.burst()
    return [entry["id"] for entry in shell.json("ls", "--state", "dead")]


def test_retry_brings_a_dead_task_back(shell: Shell) -> None:
    """It is ready again, its attempts afresh, under the id that is printed."""
    [dead] = bury(shell, 1)

    id = shell("retry", dead).strip()

    [entry] = shell.json("ls")
    assert (entry["id"], entry["state"], entry["attempts"], entry["reason"]) == (id, "ready", 0, "")


def test_retry_makes_a_waiting_task_due(shell: Shell) -> None:
    """A deferred task becomes ready now, by its bare name, too."""
    id = shell.send("app:add", "1", "--in", "1d", "--priority", "3")

    renewed = shell("retry", Path(id).name).strip()

    [entry] = shell.json("ls")
    assert (entry["id"], entry["state"], entry["priority"]) == (renewed, "ready", 3)


def test_retry_all_dead(shell: Shell) -> None:
    """All that are dead, and no others, are tried again."""
    bury(shell, 3)
    later = shell.send("app:add", "1", "--in", "1h")

    assert len(shell("retry", "--all-dead").splitlines()) == 3
    assert [entry["state"] for entry in shell.json("ls")] == ["ready"] * 3 + ["deferred"]
    assert shell.json("ls")[3]["id"] == later
    assert shell("retry", "--all-dead") == ""


def test_what_is_not_there_does_not_keep_the_rest_from_being_done(shell: Shell) -> None:
    """Of several ids each is tried; one that is not there is said, and makes the status 1."""
    one, two = shell.send("app:add", "1"), shell.send("app:add", "1")
    gone = f"{one}9"

    done = shell.result("rm", one, gone, two)

    assert (done.returncode, done.stdout) == (1, f"{one}\n{two}\n")
    assert done.stderr == f"unspool: error: no task {gone}\n"
    assert shell.json("ls") == []
    assert shell.error("retry", gone, status=1) == f"no task {gone}"


def test_rm_touches_nothing_but_tasks(shell: Shell) -> None:
    """A file that is no task is "not there", wherever it is, and stays."""
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
    "words", [["retry"], ["retry", "x", "--all-dead"], ["rm"], ["purge"], ["purge", "--state", "running"]]
)
def test_changes_need_their_words(shell: Shell, words: list[str]) -> None:
    """Too few words, or contradicting ones, are status 2."""
    shell.error(*words, status=2)


def test_purge_deletes_a_state(shell: Shell) -> None:
    """Only tasks in the state that was given are deleted, from the variables of the environment, too."""
    bury(shell, 2)
    ready, later = shell.send("app:add", "1"), shell.send("app:add", "1", "--in", "1h")

    assert shell("purge", UNSPOOL_PURGE_STATE="dead", UNSPOOL_PURGE_YES="1") == "deleted 2 tasks\n"
    assert [entry["id"] for entry in shell.json("ls")] == [ready, later]
    assert shell("purge", "--state", "dead") == "deleted 0 tasks\n"


def test_purge_spares_the_young(shell: Shell) -> None:
    """--older-than goes by the time at which a task was last due."""
    old, young = bury(shell, 2)
    os.utime(old, (time.time() - 90_000,) * 2)

    assert shell("purge", "--state", "dead", "--older-than", "1d", "--yes") == "deleted 1 task\n"
    assert [entry["id"] for entry in shell.json("ls")] == [young]


def test_purge_asks(shell: Shell) -> None:
    """Without --yes a person is asked, and a script is refused; nothing is deleted unless the answer is yes."""
    shell.send("app:add", "1")

    assert "delete 1 task; add --yes" in shell.error("purge", "--state", "ready", status=2)
    question = "Delete 1 task (ready) for good?"
    assert question in shell.on_terminal("purge", "--state", "ready", answer=(question, "n\n"), status=1)
    assert len(shell.json("ls")) == 1
    assert "deleted 1 task" in shell.on_terminal("purge", "--state", "ready", answer=(question, "y\n"))


def test_pause_and_resume(shell: Shell) -> None:
    """Paused, a worker starts nothing, and status says so; resumed, it does at once."""
    shell.send("app:add", "1")

    assert shell("pause") == f"paused {shell.mail}\n"
    assert shell.json("status")["spoolers"][0]["paused"] is True
    assert "paused" in shell("doctor")
    shell.burst()
    assert len(shell.json("ls")) == 1
    running = shell.start("app")
    running.wait_for("started")
    assert shell("resume") == f"resumed {shell.mail}\n"
    running.wait_for("processed")
    assert shell.json("status")["spoolers"][0]["paused"] is False


@pytest.mark.parametrize("period", ["1e9", "1e300", "inf", "nan", "-3", "x"])
def test_a_period_longer_than_any_wait(shell: Shell, period: str) -> None:
    """Workers run under the longest one that can be set, and under whatever somebody has written into the file."""
    (shell.mail / ".unspool/run").mkdir(parents=True, mode=0o700)
    (shell.mail / ".unspool/run/period").write_text(period)
    running = shell.start("app", "--burst", UNSPOOL_HISTORY_LIMIT="0")
    assert running.end() == 0, running.seen
    running = shell.start("app")
    running.wait_for("started")
    id = shell.send("app:add", "1")
    running.wait_for(os.path.basename(id))


def test_set_period(shell: Shell) -> None:
    """The period is shown by status; what is no positive number is refused."""
    assert shell("set-period", "12.5") == f"period of {shell.mail} is 12.5 s\n"
    assert shell.json("status")["spoolers"][0]["period"] == 12.5
    for wrong in ("-1", "nan", "often"):
        shell.error("set-period", wrong, status=2)
    assert shell.json("status")["spoolers"][0]["period"] == 12.5


@pytest.mark.parametrize("words", [["pause"], ["resume"], ["set-period", "5"]])
def test_switches_of_a_mistyped_spooler(shell: Shell, words: list[str]) -> None:
    """What is neither there nor configured is not made, and a file is no spooler."""
    typo = shell.root / "mial"
    assert f"no spooler {typo}: it does not exist" in shell.error(*words, "--spooler", "mial", status=1)
    assert not typo.exists()
    assert "it is a file" in shell.error(*words, "--spooler", str(shell.root / "app.py"), status=3)
    shell(*words)
    assert shell.mail.is_dir()


def test_a_directory_with_the_name_of_a_task(shell: Shell) -> None:
    """It is listed, is not deleted, and is in the way of no other."""
    (shell.mail / "uwsgi_spoolfile_on_a").mkdir(parents=True)
    (shell.mail / "uwsgi_spoolfile_on_b").symlink_to("nowhere")

    assert "is a directory, and no task" in shell.error("rm", "uwsgi_spoolfile_on_a", status=1)
    assert shell("purge", "--state", "corrupt", "--yes") == "deleted 1 task\n"
    assert [entry["id"] for entry in shell.json("ls")] == [str(shell.mail / "uwsgi_spoolfile_on_a")]
