"""Power cuts at each step of sending and of finishing, on a real ext4 that is shut down while the process uses it.

Acknowledged tasks exist and are complete afterwards. No incomplete task runs. A task that had ended runs at most once
more.
"""

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from unspool import inspection, points
from unspool.backends.change import RunNow
from unspool.backends.keyvalue import EPHEMERAL
from unspool.backends.spool import SpoolBackend
from unspool.message import Ack, Bury, Claim, Content, Disposition, Retry, State
from unspool.testing.exchange import claim_one, content_of, sealed, settle_one

from ..spool.sweep import sweep
from .conftest import needs
from .ext4 import Ext4

pytestmark = pytest.mark.root
BODY = b"body" * 1000


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Ext4]:
    """A disk of its own."""
    needs(root=True, tool="mkfs.ext4")
    found = Ext4(tmp_path)
    yield found
    found.close()


def cut_at(disk: Ext4, point: str, work: Callable[[], object]) -> None:
    """Do the work in a process that is stopped when it reaches the point. Cut the power there, and turn it on again.

    An empty point is the end of the work.
    """
    pid = os.fork()
    if pid == 0:
        points.reach = lambda name: os.kill(os.getpid(), signal.SIGSTOP) if name == point else None
        work()
        os.kill(os.getpid(), signal.SIGSTOP)
        os._exit(0)
    try:
        _, status = os.waitpid(pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status)
        disk.cut()
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    disk.restart()


def open_backend(disk: Ext4, *, durable: bool = True) -> SpoolBackend:
    """Return a backend ten seconds later, when a damaged task no longer counts as being written."""
    return SpoolBackend(str(disk.root / "mail"), durable=durable, clock=lambda: time.time() + 10)


def send(backend: SpoolBackend, many: int = 1) -> list[str]:
    """Send tasks, one of them with a priority."""
    priorities = [None, 5, None]
    return backend.send([sealed(Content({"msg": b"task"}, BODY, priority, None)) for priority in priorities[:many]])


def claimed(disk: Ext4) -> list[Claim]:
    """Return the tasks that can be claimed. Nothing else must be left after a sweep."""
    backend = open_backend(disk)
    found = [claim_one(backend, entry.id.removeprefix(f"{backend.name}/")) for entry in inspection.tasks(backend)]
    sweep(backend.name)
    assert os.listdir(disk.root / "mail" / ".unspool" / "tmp") == []
    claims = [claim for claim in found if isinstance(claim, Claim)]
    assert [content_of(claim).body for claim in claims] == [BODY] * len(claims)
    for claim in claims:
        settle_one(backend, claim, Ack())
    assert sum(backend.counts().tasks.values()) == 0
    backend.close()
    return claims


@pytest.mark.parametrize("many", [1, 3])
def test_while_sending(disk: Ext4, many: int) -> None:
    """At each point of a send, one after the other on one disk: earlier acknowledged tasks are complete, the current
    one is complete or absent, and exists if the call had returned.
    """
    for point in [name for name in points.NAMES if name.startswith("send.")] + [""]:
        backend = open_backend(disk)
        send(backend)
        backend.close()
        cut_at(disk, point, lambda: send(open_backend(disk), many))
        found = len(claimed(disk))
        assert 1 <= found <= 1 + many
        if point in ("send.kept", ""):
            assert found == 1 + many


@pytest.mark.parametrize(
    ("disposition", "prefix"), [(Ack(), "ack"), (Retry(1.0), "retry"), (Bury("no use"), "bury")], ids=str
)
def test_while_finishing(disk: Ext4, disposition: Disposition, prefix: str) -> None:
    """At each point of a settlement: the task has ended, or is complete in one place."""
    for point in ["claim.counted", *[name for name in points.NAMES if name.startswith(f"{prefix}.")], "settled"]:
        backend = open_backend(disk)
        (id,) = send(backend)
        backend.close()

        def work(ref: str = os.path.basename(id)) -> None:
            worker = open_backend(disk)
            claim = claim_one(worker, ref)
            assert isinstance(claim, Claim)
            settle_one(worker, claim, disposition)

        cut_at(disk, point, work)
        backend = open_backend(disk)
        states = [entry.state for entry in inspection.tasks(backend)]
        assert states in ([State.READY], [State.DEAD], [])
        assert states == [State.READY] or point in ("bury.moved", "settled", "ack.removed")
        for entry in inspection.tasks(backend, frozenset({State.DEAD})):
            backend.change(entry.id, RunNow())
        backend.close()
        assert len(claimed(disk)) == len(states)


def test_while_the_table_changes(disk: Ext4) -> None:
    """At each point of a change of the key-value table: the item is the old or the new one, complete, and the new one
    if the call had returned.
    """
    for point in [name for name in points.NAMES if name.startswith("put.")] + [""]:
        backend = open_backend(disk)
        backend.kv.put("key", BODY)
        backend.kv.put("ephemeral", BODY)
        backend.close()

        def work() -> None:
            kv = open_backend(disk).kv
            kv.put("ephemeral", b"", life=EPHEMERAL)
            kv.put("key", BODY + b"new")

        cut_at(disk, point, work)
        backend = open_backend(disk)
        item, ephemeral = backend.kv.get(["key", "ephemeral"])
        assert item is not None
        assert item.value == BODY + (b"new" if not point else b"")
        assert ephemeral is None or point in ("put.created", "put.written", "put.locked", "put.renamed")
        backend.kv.drop("key")
        backend.close()
    cut_at(disk, "", lambda: open_backend(disk).kv.drop("ephemeral") or open_backend(disk).kv.put("key", b""))
    assert [key for key, _ in open_backend(disk).kv.scan("")] == ["key"]


def test_relaxed_durability_never_runs_what_is_not_whole(disk: Ext4) -> None:
    """Without syncs, a task may be lost or truncated. A truncated task is set aside, and does not run."""
    cut_at(disk, "", lambda: [send(open_backend(disk, durable=False)) for _ in range(20)])
    backend = open_backend(disk)
    answers = [claim_one(backend, os.path.basename(entry.id)) for entry in inspection.tasks(backend)]
    assert all(not isinstance(answer, Claim) or content_of(answer).body == BODY for answer in answers)
    backend.close()


def test_after_many_tasks(disk: Ext4) -> None:
    """Two hundred tasks are acknowledged, and half of them have ended before the cut: all others exist."""
    backend = open_backend(disk)
    ids = [id for _ in range(200) for id in send(backend)]
    backend.close()

    def work() -> None:
        worker = open_backend(disk)
        for id in ids[:100]:
            claim = claim_one(worker, os.path.basename(id))
            assert isinstance(claim, Claim)
            settle_one(worker, claim, Ack())

    cut_at(disk, "", work)
    found = {claim.id for claim in claimed(disk)}
    assert found >= set(ids[100:])
    assert found <= set(ids)
