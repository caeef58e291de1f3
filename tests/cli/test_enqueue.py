"""``enqueue``: it sends what was typed, and a mistake sends nothing."""

import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from unspool import settings
from unspool.cli import main

from .conftest import Shell


def verdicts(shell: Shell) -> dict[str, str]:
    """Return how the last run of each task ended."""
    return {run["id"]: run["verdict"] for run in reversed(shell.json("history"))}


def test_arguments_arrive(shell: Shell) -> None:
    """JSON arguments, by position and by name, in both forms, reach the function. The printed id is that of the
    task.
    """
    (shell.root / "echo.py").write_text(
        "from unspool import Spooler\n"
        "@Spooler.task\n"
        "def echo(*args, **kwargs):\n"
        "    print(args, kwargs, flush=True)\n"
        "    return True\n"
    )
    sent = [
        shell("enqueue", "echo:echo", "1", '"a=b"', "-2.5", "null", "flag=true", 'names=["x"]'),
        shell("enqueue", "echo:echo", "--args", '["y", {"k": 1}]', "--kwargs", '{"n": -1}'),
        shell("enqueue", "echo:echo"),
    ]

    done = shell.result("run", "echo.py", "--burst")

    assert done.stdout.splitlines() == [
        "(1, 'a=b', -2.5, None) {'flag': True, 'names': ['x']}",
        "('y', {'k': 1}) {'n': -1}",
        "() {}",
    ]
    assert verdicts(shell) == dict.fromkeys(map(str.strip, sent), "processed")


def test_the_id_is_the_path_of_the_file(shell: Shell) -> None:
    """The absolute path of an existing file is printed."""
    id = shell("enqueue", "app:add", "1", "--priority", "12").strip()

    assert Path(id).is_file()
    assert Path(id).parent == shell.mail / "12"


def test_without_app_nothing_of_the_user_s_is_imported(shell: Shell) -> None:
    """An application that is missing or cannot be imported does not prevent sending to it."""
    (shell.root / "app.py").write_text("this is no Python")

    assert shell("enqueue", "app:add", "1")
    assert shell("enqueue", "elsewhere.tasks:Mailer.send", "1")


def test_with_app_the_task_s_own_options_hold(shell: Shell) -> None:
    """--app uses the task's priority and serialiser, which options override."""
    own = shell.json("show", shell("enqueue", "--app", "app.py", "app:urgent", '"ann"').strip())
    typed = shell.json(
        "show", shell("enqueue", "--app", "app.py", "urgent", '"ann"', "--priority", "1", "--in", "1h").strip()
    )

    assert (own["priority"], own["serializer"], own["state"]) == (7, "json", "ready")
    assert (typed["priority"], typed["serializer"], typed["state"]) == (1, "json", "deferred")


def test_with_app_mistakes_are_found_before_sending(shell: Shell) -> None:
    """A missing function, and arguments that it does not accept, are status 2 and send nothing."""
    assert "no task function 'app:nope'" in shell.error("enqueue", "--app", "app", "app:nope", status=2)
    assert "missing a required argument: 'a'" in shell.error("enqueue", "--app", "app", "app:add", status=2)
    assert "too many" in shell.error("enqueue", "--app", "app", "app:add", "1", "2", "3", status=2)
    assert "cannot be imported" in shell.error("enqueue", "--app", "nowhere", "app:add", "1", status=2)
    assert not shell.mail.exists()


def test_a_message_reaches_its_handler(shell: Shell) -> None:
    """--message goes to the subclass of this type, with its payload."""
    right = shell.send("--message", "cleanup", "--payload", '{"days": 30}')
    plain = shell.send("--message", "anything else")
    shell.burst()

    assert verdicts(shell) == {right: "processed", plain: "processed"}


def test_in_is_from_now(shell: Shell) -> None:
    """--in is relative to now."""
    before = time.time()
    id = shell.send("app:add", "1", "--in", "1h30m")

    [entry] = shell.json("ls")

    assert entry["id"] == id
    assert before + 5400 <= entry["due"] + 0.001 <= time.time() + 5400 + 0.001


def test_at_takes_iso_times(shell: Shell) -> None:
    """An offset is respected, a time without one is local, and a past time is now."""
    shell("enqueue", "app:add", "1", "--at", "2030-06-01T12:00:00+00:00")
    shell("enqueue", "app:add", "1", "--at", "2030-06-02 12:00")
    shell("enqueue", "app:add", "1", "--at", "1999-01-01")

    past, aware, naive = shell.json("ls")

    assert past["state"] == "ready"
    assert aware["due"] == datetime(2030, 6, 1, 12, tzinfo=UTC).timestamp()
    assert naive["due"] == datetime(2030, 6, 2, 10, tzinfo=UTC).timestamp()  # Berlin, in summer


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        ([], "Give a function"),
        (["add"], "does not name a function"),
        (["app.add"], "'app:add'"),
        (["app:add", "hello"], "Then write '\"hello\"'"),
        (["app:add", "{bad"], "is not JSON"),
        (["app:add", "b=x y"], "argument 'b'"),
        (["app:add", "b=1", "b=2"], "given twice"),
        (["app:add", "--args", "{}"], "must be a JSON array"),
        (["app:add", "--kwargs", "[]"], "must be a JSON object"),
        (["app:add", "--priorty", "3"], "--priorty"),
        (["app:add", "--priority", "-1"], "priority is -1"),
        (["app:add", "--priority", "high"], "--priority"),
        (["app:add", "--in", "soon"], "not a duration"),
        (["app:add", "--in", "99999999999d"], "longer than any task can wait"),
        (["app:add", "--in", "9s", "--at", "2030-01-01"], "not both"),
        (["app:add", "--at", "tomorrow"], "is not an ISO 8601 time"),
        (["app:add", "--at", "9999-01-01"], "later than the time of a file can be"),
        (["app:add", "--message", "x"], "not both"),
        (["app:add", "--payload", "1"], "--payload goes with --message"),
        (["app:add", "--spooler", "redis://x"], "not the URL of a spooler"),
        (["app:add", "--spooler", ""], "name a directory"),
    ],
)
def test_mistakes_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], wanted: str
) -> None:
    """Each mistake is status 2, is named in one line, and sends nothing."""
    mail = tmp_path / "mail"
    settings.configure(spoolers=[str(mail)])

    assert main(["enqueue", *words]) == 2

    said = capsys.readouterr().err
    assert said.startswith("unspool: error: ")
    assert said.count("\n") == 1
    assert wanted in said
    assert not mail.exists()


def test_options_from_the_environment(shell: Shell) -> None:
    """Every option has a variable, also the one whose name is a keyword of Python."""
    id = shell("enqueue", "app:add", "1", UNSPOOL_ENQUEUE_IN="1h", UNSPOOL_ENQUEUE_PRIORITY="6").strip()

    found = shell.json("show", id)

    assert (found["state"], found["priority"]) == ("deferred", 6)
    assert "UNSPOOL_ENQUEUE_IN" in shell("enqueue", "--help")
