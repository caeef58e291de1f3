"""People inspect a directory and change single tasks while workers run, and leftovers are swept if that is certain."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from unspool import inspection
from unspool.backends.change import Remove, Reprioritise, RunNow
from unspool.backends.spool import SpoolBackend
from unspool.backends.spool.directory import Directory
from unspool.errors import TaskBusy
from unspool.message import Bury, Claim, Content, Retry, State
from unspool.testing.exchange import claim_one, sealed, settle_one

from ..runtime.conftest import PATIENCE, Place
from ..spool.sweep import sweep
from . import tracing
from .conftest import needs


def unspool(place: Place, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a command line."""
    command = [sys.executable, "-m", "unspool", *words]
    return subprocess.run(
        command, cwd=place.root, env=place.env, capture_output=True, text=True, check=False, timeout=PATIENCE
    )


def tidy(backend: SpoolBackend) -> list[str]:
    """Return the drafts that a sweep leaves."""
    sweep(backend.name)
    return os.listdir(Path(backend.name, ".unspool", "tmp"))


def test_a_running_task_is_left_alone(place: Place) -> None:
    """``retry``, ``rm`` and ``purge`` refuse the running task, which ends as usual. ``ls`` and ``show`` show it as
    running.
    """
    place.write_app("@Spooler.task\ndef held(): hold('gate'); note('ended'); return True")
    place.gate("gate")
    place.call("held()")
    running = place.run()
    place.wait_for_line("begun gate")
    (entry,) = inspection.tasks(place.backend)
    assert entry.state is State.RUNNING
    for verb in ("retry", "rm"):
        refused = unspool(place, verb, entry.id)
        assert refused.returncode == 1
        assert entry.id in refused.stderr
        assert "is running; ask again when it has ended" in refused.stderr
    unspool(place, "purge", "--state", "ready", "--yes")
    assert "running" in unspool(place, "show", entry.id).stdout
    place.open_gate("gate")
    running.wait_for_verdict("processed")
    assert running.stop() == 0
    assert place.lines() == ["begun gate", "ended"]


def test_all_operations_beside_workers(place: Place) -> None:
    """Random listing, retrying and removing while two workers run 1,000 tasks: each task that was not removed runs
    once, and no removed task runs afterwards.
    """
    place.write_app("@Spooler.task\ndef mark(n): note(n); return True")
    place.call("mark.enqueue_many(range(1000))")
    ids = {entry.id: number for number, entry in enumerate(inspection.tasks(place.backend))}
    running = place.run("--processes", "2")
    removed: set[int] = set()
    backend = SpoolBackend(str(place.spool))
    for id, number in reversed(ids.items()):
        try:
            if number % 3 == 0:
                backend.change(id, Remove())
                removed.add(number)
            elif number % 3 == 1:
                backend.change(id, RunNow())
            elif number % 50 == 2:
                assert len(list(inspection.tasks(backend))) <= 1000
                inspection.find(backend, id)
        except (LookupError, TaskBusy):
            pass
    while sum(backend.counts().tasks.values()):
        running.wait_for(bool)
    assert running.stop() == 0
    done = sorted(map(int, place.lines()))
    assert sorted([*done, *removed]) == list(range(1000))


def test_a_retry_beside_a_task_of_the_same_name(tmp_path: Path) -> None:
    """A copied or restored task may have the name of a dead one. It has its own count of attempts."""
    with contextlib.closing(SpoolBackend(str(tmp_path / "mail"), durable=False)) as backend:
        (id,) = backend.send([sealed(Content({"msg": b"task"}, b"", None, None))])
        copy = Path(id).read_bytes()
        claim = claim_one(backend, os.path.basename(id))
        assert isinstance(claim, Claim)
        settle_one(backend, claim, Bury("gave up"))
        Path(id).write_bytes(copy)
        Path(id).chmod(0o600)
        claim = claim_one(backend, os.path.basename(id))
        assert isinstance(claim, Claim)
        settle_one(backend, claim, Retry(0.0))
        (dead,) = (entry.id for entry in inspection.tasks(backend, frozenset({State.DEAD})))
        assert backend.change(dead, RunNow()) != id
        claim = claim_one(backend, os.path.basename(id))
        assert isinstance(claim, Claim)
        assert claim.attempts == 2


@pytest.mark.parametrize("change", [RunNow(), Remove(), Reprioritise(7)])
@pytest.mark.parametrize("look", ["access", "open"])
def test_a_task_that_ends_while_it_is_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str, look: str
) -> None:
    """Whichever check the task disappears before, an error says that it has just ended."""
    backend = SpoolBackend(str(tmp_path / "mail"), durable=False)
    (id,) = backend.send([sealed(Content({"msg": b"task"}, b"", None, None))])
    genuine = getattr(os, look)

    def end_first(path: Any, *args: Any, **kwargs: Any) -> Any:
        if path == id:
            Path(id).unlink(missing_ok=True)
        return genuine(path, *args, **kwargs)

    monkeypatch.setattr(os, look, end_first)
    with pytest.raises(LookupError, match="has just ended"):
        backend.change(id, change)


def test_a_large_spool_is_read_little(tmp_path: Path) -> None:
    """For 5,000 tasks, ``status`` opens no file and reads the status of each once. A listing of ten opens and reads
    only those. If the system has many locks, up to a thousand more are opened.
    """
    needs(tool="strace")
    backend = SpoolBackend(str(tmp_path / "mail"), durable=False)
    backend.send([sealed(Content({"msg": b"task"}, b"", None, None))] * 5_000)

    def looks(work: Callable[[], Any]) -> tuple[int, int]:
        """Return how often files of tasks are opened, and their status read."""
        log = tmp_path / "calls"
        tracing.run(work, log=str(log))
        lines = [line for line in log.read_text().splitlines() if "uwsgi_spoolfile_on_" in line]
        opened = sum(" openat(" in line or " open(" in line for line in lines)
        return opened, len(lines) - opened

    opened, others = looks(lambda: backend.counts().tasks[State.READY])
    assert opened <= 1_000
    assert others == 5_000
    opened, others = looks(lambda: len(list(inspection.tasks(backend, limit=10))))
    assert opened <= 1_020
    assert others <= 60


def test_retry_begins_afresh_and_keeps_the_history(place: Place) -> None:
    """A dead task that is retried has all its attempts again, and its history has the runs before and after."""
    place.write_app("@Spooler.task(max_attempts=2, retry_delay=0)\ndef fail(): note('run'); raise ValueError('no')")
    place.call("fail()")
    place.burst()
    (dead,) = inspection.tasks(place.backend)
    assert (dead.state, dead.attempts) == (State.DEAD, 2)
    assert unspool(place, "retry", dead.id).returncode == 0
    place.burst()
    (again,) = inspection.tasks(place.backend)
    assert (again.state, again.attempts) == (State.DEAD, 2)
    assert [record.attempt for record in inspection.runs(place.backend, id=again.id)] == [2, 1, 2, 1]
    assert place.lines() == ["run"] * 4


def test_drafts_of_the_living_are_kept(place: Place) -> None:
    """A process that is stopped during a send keeps its draft for any time. A killed one does not. Files that unspool
    has not named always stay.
    """
    place.env["UNSPOOL_DURABILITY"] = "full"
    code = (
        "import os, signal, sys\n"
        "from unspool import Spooler, points\n"
        "end = getattr(signal, sys.argv[1])\n"
        "points.reach = lambda name: name == 'send.written' and os.kill(os.getpid(), end)\n"
        "Spooler.send_message_raw('x')\n"
        "print('sent')\n"
    )
    stopped = subprocess.Popen(
        [sys.executable, "-c", code, "SIGSTOP"], cwd=place.root, env=place.env, stdout=subprocess.PIPE, text=True
    )
    os.waitid(os.P_PID, stopped.pid, os.WSTOPPED | os.WNOWAIT)
    killed = subprocess.run([sys.executable, "-c", code, "SIGKILL"], cwd=place.root, env=place.env, check=False)
    assert killed.returncode == -signal.SIGKILL
    foreign = place.spool / ".unspool" / "tmp" / "somebody.else"
    foreign.touch()
    os.utime(foreign, (0, 0))
    assert len(os.listdir(foreign.parent)) == 3
    left = tidy(place.backend)
    assert len(left) == 2
    assert foreign.name in left
    os.kill(stopped.pid, signal.SIGCONT)
    assert stopped.communicate(timeout=PATIENCE)[0] == "sent\n"
    assert place.backend.counts().tasks[State.READY] == 1
    assert tidy(place.backend) == [foreign.name]


def test_a_supervisor_sweeps(place: Place) -> None:
    """Leftovers of a killed producer are removed after the first scan, and so are reasons and counts without a task."""
    place.write_app("@Spooler.task\ndef mark(): return True")
    place.env |= {"KILL": "1", "UNSPOOL_DURABILITY": "full"}
    code = (
        "import os, signal\nfrom unspool import points\npoints.reach = lambda _: os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run(
        [sys.executable, "-c", f"{code}\nfrom tasks import *\nmark()"], cwd=place.root, env=place.env, check=False
    )
    private = place.spool / ".unspool"
    assert len(os.listdir(private / "tmp")) == 1
    reason = private / "dead" / "uwsgi_spoolfile_on_gone_1_1_1_1_1.reason"
    reason.write_text("{}")
    os.utime(reason, (0, 0))
    (private / "attempts").mkdir()
    (private / "attempts" / "5+uwsgi_spoolfile_on_gone_1_1_1_1_1").write_text("1 0 r")
    place.burst()
    assert [os.listdir(private / part) for part in ("tmp", "dead", "attempts")] == [[], [], []]


def test_reasons_of_the_dead_are_kept(tmp_path: Path) -> None:
    """A sweep keeps a reason beside its task, and one whose task is just being set aside."""
    backend = SpoolBackend(str(tmp_path / "mail"))
    (id,) = backend.send([sealed(Content({"msg": b"task"}, b"", None, None))])
    name = os.path.basename(id)
    reason = tmp_path / "mail" / ".unspool" / "dead" / f"{name}.reason"
    reason.write_text("{}")
    os.utime(reason, (0, 0))
    claim = claim_one(SpoolBackend(str(tmp_path / "mail")), name)
    tidy(backend)
    assert reason.exists()  # its task is locked
    os.close(claim.token.file)  # type: ignore[union-attr]
    os.rename(id, reason.with_suffix(""))
    tidy(backend)
    assert reason.exists()
    reason.with_suffix("").unlink()
    tidy(backend)
    assert not reason.exists()


def test_threads_of_one_process_sign_their_drafts_once(tmp_path: Path) -> None:
    """However many threads send first at once, one byte is locked, and no draft is considered that of a dead
    process.
    """
    backend = SpoolBackend(str(tmp_path / "mail"), durable=False)
    envelope = sealed(Content({"msg": b"task"}, b"", None, None))
    threads = [threading.Thread(target=lambda: [backend.send([envelope]) for _ in range(50)]) for _ in range(8)]
    for thread in threads:
        thread.start()
    other = SpoolBackend(str(tmp_path / "mail"))
    while any(thread.is_alive() for thread in threads):
        sweep(other.name)
    assert backend.counts().tasks[State.READY] == 400
    assert tidy(other) == []


def test_a_fork_has_drafts_of_its_own(tmp_path: Path) -> None:
    """A forked process that lives on does not keep the drafts of its dead parent, and the reverse."""
    directory = Directory(str(tmp_path / "mail"))
    mine = directory.drafts.name("x")
    pid = os.fork()
    if pid == 0:
        os._exit(directory.drafts.name("x") == mine)
    assert os.waitpid(pid, 0)[1] == 0
    assert directory.drafts.name("x") == mine


@pytest.mark.parametrize("name", ["x", "x.1", "x.zzzzzzzzzzzz", "x.000000000000", "x.ffffffffffffff"])
def test_names_that_prove_nothing(tmp_path: Path, name: str) -> None:
    """A draft without a number, or with an impossible number, is never swept."""
    drafts = Directory(str(tmp_path / "mail")).drafts
    assert drafts.number
    assert not drafts.abandoned(name, tmp_path.stat().st_dev)
