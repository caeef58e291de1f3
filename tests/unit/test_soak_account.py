"""Each row of a soak's account that must be zero is not zero when its promise is broken."""

import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from tests.soak import account, operators, oracle
from tests.soak.cast import Cast, Part
from tests.soak.hunt import Hunt
from tests.soak.operators import Operators
from tests.soak.oracle import Line
from tests.soak.target import Target
from tests.soak.verdict import Left, judge
from unspool.backends.spool import SpoolBackend

_NONE = Left(set(), set(), set(), [])
_SENT = "0 ack k1:ok /mail/one"
_RUN = [_SENT, "1 start k1:ok 7", "2 end k1:ok 7"]

_BROKEN: dict[str, tuple[list[str], Left]] = {
    "nothing to judge": ([], _NONE),
    "lost": ([*_RUN, "0 ack k2:ok /mail/two"], _NONE),
    "two runs at once": ([_SENT, "1 start k1:ok 7", "2 start k1:ok 8", "2.1 end k1:ok 7", "2.2 end k1:ok 8"], _NONE),
    "runs made again without a cause": ([*_RUN, "3 start k1:ok 8", "4 end k1:ok 8"], _NONE),
    "runs beyond the attempts of a task": (
        [
            *_RUN, "0 ack k3:hopeless /mail/three",
            *[f"{at}.{part} {word}" for at in (1, 2, 3)
              for part, word in enumerate(("start k3:hopeless 7", "fail k3:hopeless 7 ValueError"))],
        ],
        _NONE._replace(aside={"k3:hopeless"}),
    ),
    "waiting, and nobody runs it": (_RUN, _NONE._replace(waiting={"k2:ok"})),
    "listed or counted, although ended": (_RUN, _NONE._replace(waiting={"k1:ok"})),
    account.REFUSED: ([*_RUN, "1 refused SpoolerUnusable k4:ok", "2 start k4:ok 7", "3 end k4:ok 7"], _NONE),
    "tracebacks of the command line": ([*_RUN, "3 traceback ls"], _NONE),
    "odd statuses of the command line": ([*_RUN, "3 odd -7 history"], _NONE),
    "commands and stops that hung": ([*_RUN, "3 hung ls"], _NONE),
    "processes that ended by themselves": ([*_RUN, "3 gaveup supervisor-1 1"], _NONE),
    "processes that outlived the stop of their supervisor": ([*_RUN, "3 survived supervisor-1 8"], _NONE),
}  # fmt: skip


def _lines(texts: list[str]) -> list[Line]:
    split = sorted((text.split() for text in texts), key=lambda words: float(words[0]))
    return [Line(float(at), word, tuple(rest)) for at, word, *rest in split]


def _failures(lines: list[Line], left: Left = _NONE, **found: Any) -> dict[str, list[str]]:
    others: dict[str, Any] = {
        "tracebacks": [],
        "own_faults": [],
        "drafts": 0,
        "orphans": [],
        "held": [],
        "refuses": True,
    }
    others |= found
    return account.failures(judge(lines, left), lines, **others)


@pytest.mark.parametrize("row", _BROKEN)
def test_each_broken_promise_has_its_row(row: str) -> None:
    """The other rows stay zero, except that two runs at once also are a run without a cause."""
    texts, left = _BROKEN[row]
    failed = {what for what, these in _failures(_lines(texts), left).items() if these}
    assert failed - ({"runs made again without a cause"} if row == "two runs at once" else set()) == {row}


def test_all_rows_have_a_broken_promise() -> None:
    """Rows that the log does not show have separate tests below."""
    given = {
        "tracebacks in logs": ("tracebacks", ["a.log"]),
        "processes that a fault of their own has killed": ("own_faults", ["SIGBUS"]),
        "drafts left behind": ("drafts", 1),
        "workers of killed supervisors that did not end": ("orphans", [7]),
        "removed tasks that idle workers hold open": ("held", ["7 /mail/one (deleted)"]),
    }
    assert not any(_failures(_lines(_RUN)).values())
    assert _failures(_lines(_RUN)).keys() == _BROKEN.keys() | given.keys()
    for row, (name, value) in given.items():
        assert {what for what, these in _failures(_lines(_RUN), _NONE, **{name: value}).items() if these} == {row}


# --- what is not in the log of the tasks


class _Place:
    """A directory without processes of its own."""

    def __init__(self, spool: Path, commands: dict[str, list[str]]) -> None:
        self.parts = {name: Part(lambda _, words=words: words, {}) for name, words in commands.items()}  # type: ignore[misc]
        self.environment = {}
        self.spoolers = [str(spool)]
        self.routes = []

    def taken(self) -> set[str]:
        return set()


_LEAVES_A_CHILD = "import os, signal, time; os.fork() or time.sleep(600); signal.sigwait([signal.SIGTERM])"


@pytest.fixture
def hunt(tmp_path: Path) -> Iterator[Hunt]:
    """A soak that has not begun."""
    forks = [sys.executable, "-c", f"import signal; signal.pthread_sigmask(0, [15]); {_LEAVES_A_CHILD}"]
    target = _Place(tmp_path / "mail", {"supervisor-1": forks})
    made = Hunt(tmp_path, str(tmp_path / "log"), cast("Target", target), "seed", threading.RLock(), None)
    yield made
    made.cast.end()


def _said(cast: Cast, word: str) -> list[tuple[str, ...]]:
    return [line.rest for line in oracle.read(Path(cast.log)) if line.word == word]


def test_logs_are_searched(hunt: Hunt, tmp_path: Path) -> None:
    """The logs are searched for tracebacks, and for signals that no one has sent. A kill is not a fault of the
    process.
    """
    log = tmp_path / "supervisor-1.log"
    log.write_text("worker 7 was killed by SIGKILL\n")
    assert hunt.tracebacks() == hunt.own_faults() == []
    log.write_text(
        "Traceback (most recent call last):\nthe recorder of history was killed by SIGBUS; a new one replaces it\n"
    )
    assert hunt.tracebacks() == ["supervisor-1.log"]
    assert hunt.own_faults() == ["the recorder of history was killed by SIGBUS; a new one replaces it"]


def test_drafts_are_counted(hunt: Hunt, tmp_path: Path) -> None:
    """Drafts that no sweep removes."""
    backend = SpoolBackend(str(tmp_path / "mail"))
    backend.switch(period=7)
    assert hunt.drafts() == 0
    (tmp_path / "mail/.unspool/tmp/left").touch()
    os.utime(tmp_path / "mail/.unspool/tmp/left")
    assert hunt.drafts() == 1


def test_processes_that_outlive_their_leader_are_found(hunt: Hunt, tmp_path: Path) -> None:
    """They are found after a stop, and after the kill of a supervisor."""
    for stop in (True, False):
        hunt.cast.start("supervisor-1")
        while len(hunt.cast.children("supervisor-1")) < 1:
            assert hunt.cast.running["supervisor-1"].poll() is None
        (child,) = hunt.cast.children("supervisor-1")
        if stop:
            hunt.cast.stop("supervisor-1")
            assert _said(hunt.cast, "survived") == [("supervisor-1", str(child))]
        else:
            leader = hunt.cast.pid("supervisor-1")
            hunt.cast.kill_leader("supervisor-1")
            del hunt.cast.running["supervisor-1"]
            assert leader in hunt.cast.leaders
            assert hunt.cast.end_orphans(0.0) == [child]


def test_removed_tasks_that_are_held_open_are_found(hunt: Hunt, tmp_path: Path) -> None:
    """Processes of a supervisor hold them. A task that still exists is not a leak."""
    tasks = [tmp_path / f"uwsgi_spoolfile_on_{name}" for name in ("a", "b")]
    descriptors = [os.open(task, os.O_CREAT | os.O_RDONLY) for task in tasks]
    tasks[0].unlink()
    process = subprocess.Popen(["sleep", "600"], pass_fds=descriptors, start_new_session=True)
    hunt.cast.running["supervisor-1"] = process  # type: ignore[assignment]
    assert hunt.cast.held_tasks("supervisor-1") == [f"{process.pid} {tasks[0]} (deleted)"]
    process.kill()
    process.wait()


def test_a_process_that_ends_by_itself_is_found(hunt: Hunt) -> None:
    """It is noticed when the process is started again."""
    hunt.cast.start("supervisor-1")
    pid = hunt.cast.pid("supervisor-1")
    for one in hunt.cast.members("supervisor-1"):
        os.kill(one, signal.SIGKILL)  # without the soak's knowledge
    hunt.cast.running["supervisor-1"].wait()
    hunt.cast.start("supervisor-1")
    assert hunt.cast.pid("supervisor-1") != pid
    assert _said(hunt.cast, "gaveup") == [("supervisor-1", str(-signal.SIGKILL))]


def test_what_is_left_and_cannot_be_listed_is_no_success(hunt: Hunt) -> None:
    """A command that fails lists nothing, which looks like an empty queue."""
    hunt.operators = _operators(hunt.scratch, "raise SystemExit(1)")
    assert hunt.left().oddities


def _operators(scratch: Path, program: str) -> Operators:
    """Return operators whose command line is this program."""
    package = scratch / "stub/unspool"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text(program)
    environment = dict(os.environ) | {"PYTHONPATH": str(package.parent)}
    return Operators(scratch, str(scratch / "log"), environment, ["/mail"], [], "seed", threading.RLock())


@pytest.mark.parametrize(
    ("program", "word", "rest"),
    [
        ("print('fine'); raise SystemExit(1)", None, ()),
        ("raise RuntimeError", "traceback", ("ls",)),
        ("raise SystemExit(2)", "odd", ("2", "ls")),
        ("import os; os.kill(os.getpid(), 7)", "odd", ("-7", "ls")),
        ("import time; time.sleep(600)", "hung", ("ls",)),
    ],
)
def test_commands_that_misbehave_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str, word: str | None, rest: tuple[str, ...]
) -> None:
    """They are found by their status, their standard error and their duration."""
    if word == "hung":
        monkeypatch.setattr(operators, "_PATIENCE", 0.3)
    done = _operators(tmp_path, program).run("ls")
    assert (done is None) == (word == "hung")
    said = [(line.word, line.rest) for line in oracle.read(tmp_path / "log")]
    assert said == ([] if word is None else [(word, rest)])


class _Kills(random.Random):
    """Operators whose commands are all killed after a moment."""

    def random(self) -> float:
        return 0.1


def test_a_removal_that_was_killed_excuses_only_what_is_gone(tmp_path: Path) -> None:
    """Tasks that are listed after it are kept, so they can still be lost."""
    kept = tmp_path / "kept"
    kept.write_bytes(b"k1:ok")
    program = f"""
import sys, time
print('[{{"id": "{kept}"}}]') if sys.argv[1] == "ls" else time.sleep(600)
"""
    operated = _operators(tmp_path, program)
    operated.remove({str(kept): "k1:ok", "/gone": "k2:ok"}, _Kills(), "rm")
    lines = oracle.read(tmp_path / "log")
    assert [(line.word, *line.rest) for line in lines] == [("remove", "k1:ok"), ("remove", "k2:ok"), ("kept", "k1:ok")]
    lines += [Line(lines[0].at, "ack", (key, f"/{key}")) for key in ("k1:ok", "k2:ok")]
    verdict = judge(lines, _NONE)
    assert (verdict.lost, verdict.removed) == (["k1:ok"], 1)
