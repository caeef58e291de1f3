"""A kill while a task gets another priority neither loses nor doubles the task."""

import os
import signal
from pathlib import Path

import pytest

from unspool import inspection, points
from unspool.backends.change import Reprioritise
from unspool.backends.spool import SpoolBackend
from unspool.message import Bury, Claim, Content, Retry, State
from unspool.testing.exchange import claim_one, sealed, settle_one

POINTS = [name for name in points.NAMES if name.startswith("reprioritise.")]


@pytest.fixture(params=["attributes", "files"])
def backend(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SpoolBackend:
    """Return an empty spooler, whose counts are extended attributes or files."""
    if request.param == "files":
        monkeypatch.delattr(os, "setxattr")
        monkeypatch.delattr(os, "getxattr")
    return SpoolBackend(str(tmp_path / "mail"), durable=False)


def killed_at(point: str, backend: SpoolBackend, id: str, priority: int | None) -> None:
    """Change the priority in a child process that is killed at a point."""
    pid = os.fork()
    if pid == 0:
        points.reach = lambda name: os.kill(os.getpid(), signal.SIGKILL) if name == point else None
        try:
            backend.change(id, Reprioritise(priority))
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL


@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize(("before", "after"), [(None, 5), (5, None), (5, 7)])
def test_a_kill_at_any_step(backend: SpoolBackend, point: str, before: int | None, after: int | None) -> None:
    """The task is there once, with the former or the new priority and its attempts, and the change can be repeated."""
    (id,) = backend.send([sealed(Content({"msg": b"task"}, b"", before, None))])
    claim = claim_one(backend, id.removeprefix(f"{backend.name}/"))
    assert isinstance(claim, Claim)
    settle_one(backend, claim, Retry(0.0))
    killed_at(point, backend, id, after)
    (entry,) = inspection.tasks(backend)
    assert entry.priority == (after if point == "reprioritise.renamed" else before)
    assert entry.attempts == 1
    again = backend.change(entry.id, Reprioritise(after))
    (entry,) = inspection.tasks(backend)
    assert (entry.id, entry.priority, entry.attempts, entry.state) == (again, after, 1, State.READY)
    claim = claim_one(backend, again.removeprefix(f"{backend.name}/"))
    assert isinstance(claim, Claim)
    assert (claim.attempts, claim.crashes) == (2, 0)


def test_a_note_goes_with_its_dead_letter(backend: SpoolBackend) -> None:
    """A dead letter keeps its reason and attempts, and no note stays behind."""
    (id,) = backend.send([sealed(Content({"msg": b"task"}, b"", None, None))])
    claim = claim_one(backend, id.removeprefix(f"{backend.name}/"))
    assert isinstance(claim, Claim)
    settle_one(backend, claim, Bury("gave up"))
    backend.change(id, Reprioritise(5))
    (entry,) = inspection.tasks(backend)
    assert (entry.state, entry.priority, entry.reason, entry.attempts) == (State.DEAD, 5, "gave up", 1)
    assert sorted(path.parent.name for path in Path(backend.name).rglob("*.reason")) == ["5"]


def test_no_other_task_is_replaced(backend: SpoolBackend) -> None:
    """A copy of the task in the directory of the new priority stays there."""
    (id,) = backend.send([sealed(Content({"msg": b"task"}, b"one", None, None))])
    folder = Path(backend.name, "5")
    folder.mkdir(mode=0o700)
    copy = folder / Path(id).name
    copy.write_bytes(Path(id).read_bytes())
    copy.chmod(0o600)
    changed = backend.change(id, Reprioritise(5))
    assert {entry.id for entry in inspection.tasks(backend)} == {changed, str(copy)}
