"""Mistakes on the command line. Each answer is one line that names what is valid."""

import pytest

from ..cli.conftest import Shell
from .conftest import Quick

FORM = "write it as 'module:function'"

MISTAKES = [
    (["run", "app", "--processes", "0"], "'--processes': 0 is not in the range 1<=x<=1024. (see 'unspool run --help')"),
    (["run", "app", "--processes", "two"], "Invalid value for '--processes': 'two' is not a valid whole number."),
    (["statsu"], "No such command 'statsu'. Did you mean 'status'?"),
    (["ls", "--sate", "dead"], "No such option '--sate'. Did you mean '--state'?"),
    (["ls", "--limit", "few"], "Invalid value for '--limit': 'few' is not a valid whole number."),
    (["enqueue", "app.add"], f"'app.add' does not name a function; {FORM}, such as 'app:add'."),
    (["enqueue", "add"], f"'add' does not name a function; {FORM}."),
    (["enqueue", "app:add", "hello"], """argument 'hello' is not JSON; is it a string? Then write '"hello"'."""),
    (["enqueue", "app:add", "--args", "{}"], "--args must be a JSON array."),
    (["enqueue", "app:add", "--kwargs", "[]"], "--kwargs must be a JSON object."),
    (
        ["enqueue", "app:add", "1", "--in", "5minutes"],
        "Invalid value for '--in': '5minutes' is not a duration; write it like 90s, 5m, 1h30m or 2d.",
    ),
    (
        ["enqueue", "app:add", "1", "--at", "tomorrow"],
        "Invalid value for '--at': 'tomorrow' is not an ISO 8601 time; write it like 2030-01-31T08:00.",
    ),
    (["enqueue", "app:add", "1", "--in", "5m", "--at", "2030-01-31"], "Give --in or --at, not both."),
    (["set-period", "often"], "'often' is not a duration; write it like 90s, 5m, 1h30m or 2d."),
    (["move", "mail", "mail"], "are the same; name two"),
]


@pytest.mark.parametrize(("words", "answer"), MISTAKES)
def test_mistake(quick: Quick, words: list[str], answer: str) -> None:
    """One line, status 2, and no hint at a variable that is not set."""
    quick.shell.mail.mkdir(mode=0o700)
    text = quick.error(*words, status=2)
    assert answer in text
    assert "env var" not in text
    assert " is set" not in text


def test_a_mistake_in_the_environment(quick: Quick) -> None:
    """The variable that has set the value is named, also if its name differs from that of the option."""
    text = quick.error("run", "app", status=2, UNSPOOL_RUN_PROCESSES="abc")
    assert "'abc' is not a valid whole number. (UNSPOOL_RUN_PROCESSES is set; see 'unspool run --help')" in text
    text = quick.error("enqueue", "app:add", "1", status=2, UNSPOOL_ENQUEUE_IN="5minutes")
    assert "(UNSPOOL_ENQUEUE_IN is set; see 'unspool enqueue --help')" in text


def test_a_task_that_is_not_there(quick: Quick) -> None:
    """Each command names the id, and exits with 1."""
    id = f"{quick.shell.mail}/nothing"
    quick.shell.mail.mkdir(mode=0o700)
    for command in ("rm", "show", "retry"):
        assert quick.error(command, id, status=1) == f"no task {id}"
    assert quick.error("history", "nothing", status=1) == "no task nothing, and no run of it in the history"


def test_a_directory_needs_no_schema(shell: Shell) -> None:
    """There is nothing to do, which is said, and is not an error."""
    assert shell("migrate") == f"{shell.mail} needs no schema\n"


def test_a_function_that_nothing_has_checked(shell: Shell) -> None:
    """Without --app, the name of a function may be mistyped. A note on stderr says how to check it."""
    done = shell.result("enqueue", "app:typo")
    assert (done.returncode, done.stdout.startswith(f"{shell.mail}/")) == (0, True)
    assert done.stderr == (
        "unspool: nothing has checked that app:typo exists; --app APP checks this, and the arguments, before sending\n"
    )
    assert shell.result("enqueue", "--app", "app", "app:add", "1").stderr == ""
    assert "no task function 'app:typo' in this program" in shell.error("enqueue", "--app", "app", "app:typo", status=2)
    text = shell.error("enqueue", "--app", "app", "app:add", "1", "2", "3", status=2)
    assert "too many positional arguments; its signature is (a, b=2)" in text
