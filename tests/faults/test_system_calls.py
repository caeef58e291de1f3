"""Kills before each system call of sending, claiming and settling that changes anything, and errors of each of them."""

import contextlib
import errno
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from unspool import inspection
from unspool.backends.change import Remove
from unspool.backends.keyvalue import EPHEMERAL
from unspool.backends.spool import SpoolBackend
from unspool.backends.spool.names import is_task
from unspool.errors import SpoolerUnusable
from unspool.message import (
    Ack,
    Bury,
    Claim,
    Content,
    Disposition,
    Refusal,
    RefusalKind,
    Release,
    Retry,
    State,
)
from unspool.testing.exchange import claim_one, content_of, sealed, settle_one

from ..spool.sweep import sweep
from . import tracing
from .conftest import needs

LATER = time.time() + 3600


@pytest.fixture(autouse=True)
def _strace() -> None:
    needs(root=True, tool="strace")


def open_backend(root: Path, clock: float = 0.0) -> SpoolBackend:
    """Return a backend of this process."""
    return SpoolBackend(str(root / "mail"), clock=lambda: time.time() + clock)


def send(backend: SpoolBackend, priority: int | None = None) -> str:
    """Send one task."""
    return backend.send([sealed(Content({"msg": b"task"}, b"body" * 100, priority, None))])[0]


def swept(backend: SpoolBackend) -> list[str]:
    """Return the drafts that a sweep leaves."""
    sweep(backend.name)
    return [path.name for path in Path(backend.name, ".unspool", "tmp").glob("*")]


def killed_at_each_call(root: Path, work: Callable[[Path], None], prepare: Callable[[Path], None]) -> Iterator[Path]:
    """Yield the places in which the work was killed, each at another system call, and at last one in which it
    was not.
    """
    (root / "whole").mkdir()
    prepare(root / "whole")
    calls = tracing.calls(lambda: work(root / "whole"), root / "calls")
    assert len(calls) > 5, calls
    survived: list[str] = []
    for number, call in enumerate(calls):
        place = root / str(number)
        place.mkdir()
        prepare(place)
        with contextlib.suppress(tracing.Killed):
            tracing.run(lambda place=place: work(place), call)  # type: ignore[misc]
            survived.append(call)
        yield place
    assert len(survived) <= 1, f"not killed at {survived}"
    yield root / "whole"


def test_a_producer_killed_before_each_call(tmp_path: Path) -> None:
    """From the first use of a directory on, the task is absent or complete, exists if the call had returned, and
    leftovers are swept.
    """

    def work(place: Path) -> None:
        send(open_backend(place), priority=5)
        (place / "returned").touch()

    seen = set()
    for place in killed_at_each_call(tmp_path, work, lambda _: None):
        backend, returned = open_backend(place, clock=10), (place / "returned").exists()
        found = [claim_one(backend, entry.id.removeprefix(f"{backend.name}/")) for entry in inspection.tasks(backend)]
        assert [content_of(claim).body for claim in found] == [b"body" * 100] * len(found)
        assert len(found) == 1 or not returned
        assert swept(backend) == []
        seen.add((len(found), returned))
    assert seen == {(0, False), (1, False), (1, True)}


@pytest.mark.parametrize("disposition", [Ack(), Retry(LATER), Bury("no use")], ids=["ack", "retry", "bury"])
def test_a_worker_killed_before_each_call(tmp_path: Path, disposition: Disposition) -> None:
    """Between its claim and its end, a task is never lost and never in two places. If it had not ended, it can be
    claimed at once, with the attempt counted.
    """

    def work(place: Path) -> None:
        worker = open_backend(place)
        (ref,) = [name for name in os.listdir(worker.name) if is_task(name)]
        settle_one(worker, claim_one(worker, ref), disposition)

    seen = set()
    for place in killed_at_each_call(tmp_path, work, lambda place: send(open_backend(place)) and None):
        backend = open_backend(place)
        counts = {state: count for state, count in backend.counts().tasks.items() if count}
        answer = None
        for entry in inspection.tasks(backend):
            answer = claim_one(backend, os.path.basename(entry.id))
        match answer:
            case Claim():
                assert counts == {State.READY: 1}
                seen.add(f"again {answer.attempts} {answer.crashes}")
            case Refusal(RefusalKind.EARLY):
                assert counts == {State.DEFERRED: 1}
                seen.add("later")
            case _:
                assert counts == ({State.DEAD: 1} if isinstance(disposition, Bury) else {})
                seen.add("gone")
        assert swept(backend) == []
    end = {Ack: "gone", Retry: "later", Bury: "gone"}[type(disposition)]
    assert {"again 1 0", "again 2 1", end} <= seen <= {"again 1 0", "again 2 1", "again 2 0", end}


@pytest.mark.parametrize("calls", ["write", "fsync", "rename,renameat,renameat2", "openat", "mkdir,mkdirat"])
@pytest.mark.parametrize("many", [1, 3])
def test_sending_to_a_failing_disk(tmp_path: Path, calls: str, many: int) -> None:
    """The error names the spooler, nothing is left, and the next send works."""

    def work() -> None:
        backend = open_backend(tmp_path)
        backend.send([sealed(Content({"msg": b"task"}, b"", None, None))] * many)

    failing = "syncfs" if many > 1 and calls == "fsync" else calls
    if calls != "mkdir,mkdirat":
        backend = open_backend(tmp_path)
        backend.switch(period=3)  # the directories are there
    with pytest.raises(SpoolerUnusable, match=f"spooler {tmp_path}/mail cannot be used: the disk reports an error"):
        tracing.run(work, f"{failing}:error=EIO:when=1")
    backend = open_backend(tmp_path)
    assert sum(backend.counts().tasks.values()) == 0
    assert swept(backend) == []
    backend.send([sealed(Content({"msg": b"task"}, b"", None, None))] * many)
    assert backend.counts().tasks[State.READY] == many


@pytest.mark.parametrize(
    ("many", "priority", "durable", "failing", "sent"),
    [
        (5, None, True, "rename,renameat,renameat2:error=ENOSPC:when=3", 2),
        (5, 7, True, "rename,renameat,renameat2:error=ENOSPC:when=3", 2),
        (5, None, False, "fchmod:error=EIO:when=3", 2),
        (40, None, False, "fchmod:error=EIO:when=33", 32),
        (1, None, True, "fsync:error=EIO:when=2", 1),
        (3, None, True, "fsync:error=EIO:when=1", 3),
    ],
)
def test_a_send_that_fails_half_way(
    tmp_path: Path, many: int, priority: int | None, durable: bool, failing: str, sent: int
) -> None:
    """The error names exactly the tasks that are in the queue. After sending the others again, each is there once."""
    envelopes = [sealed(Content({"msg": b"%d" % number}, b"", priority, None)) for number in range(many)]
    backend = SpoolBackend(str(tmp_path / "mail"), durable=durable)
    backend.change(send(backend, priority), Remove())  # the directories are there
    with pytest.raises(SpoolerUnusable) as caught:
        tracing.run(lambda: backend.send(envelopes), failing)
    assert caught.value.sent == tuple(entry.id for entry in inspection.tasks(backend))
    assert len(caught.value.sent) == sent
    assert f"{sent} of {many} tasks are in the queue" in str(caught.value)
    assert swept(backend) == []
    backend.send(envelopes[sent:])
    messages = [
        found[1].vars["msg"]
        for entry in inspection.tasks(backend)
        if (found := inspection.read(backend, entry.id)) and found[1]
    ]
    assert messages == [b"%d" % number for number in range(many)]


def test_a_change_of_the_table_killed_before_each_call(tmp_path: Path) -> None:
    """An item is the old or the new one, complete, and the new one if the call had returned. An ephemeral item is
    absent. The table stays usable, and leftovers are swept.
    """

    def prepare(place: Path) -> None:
        open_backend(place).kv.put("key", b"one" * 1000)

    def work(place: Path) -> None:
        kv = open_backend(place).kv
        kv.put("key", b"two" * 1000, expect=kv.get(["key"])[0].version)  # type: ignore[union-attr]
        (place / "returned").touch()
        kv.put("ephemeral", b"", life=EPHEMERAL)

    seen = set()
    for place in killed_at_each_call(tmp_path, work, prepare):
        backend, returned = open_backend(place), (place / "returned").exists()
        item, ephemeral = backend.kv.get(["key", "ephemeral"])
        assert item is not None
        assert item.value in [b"two" * 1000, *([] if returned else [b"one" * 1000])]
        assert ephemeral is None
        assert backend.kv.put("key", b"next", expect=item.version)
        assert swept(backend) == []
        assert sorted(os.listdir(f"{backend.name}/.unspool/kv")) == [",key", "lock"]
        seen.add((item.value[:3], returned))
    assert seen == {(b"one", False), (b"two", False), (b"two", True)}


@pytest.mark.parametrize(
    ("calls", "when"),
    [("openat", 2), ("write", 1), ("fsync", 1), ("fcntl", 2), ("rename,renameat,renameat2", 1), ("unlink,unlinkat", 1)],
)
def test_a_change_of_the_table_on_a_failing_disk(tmp_path: Path, calls: str, when: int) -> None:
    """The change raises an error that names the spooler, and leaves the old item and no draft."""
    backend = open_backend(tmp_path)
    backend.kv.put("key", b"old")
    change = (lambda: backend.kv.drop("key")) if "unlink" in calls else (lambda: backend.kv.put("key", b"new"))
    with pytest.raises(SpoolerUnusable, match=f"spooler {tmp_path}/mail cannot be used: the disk reports an error"):
        tracing.run(change, f"{calls}:error=EIO:when={when}")
    assert [item and item.value for item in backend.kv.get(["key"])] == [b"old"]
    assert swept(backend) == []
    assert backend.kv.put("key", b"new")


@pytest.mark.parametrize("calls", ["openat", "read", "fstat,newfstatat", "fsetxattr", "fcntl"])
def test_claiming_from_a_failing_disk(tmp_path: Path, calls: str) -> None:
    """The file is kept and tried again a minute later. The worker lives, and no crash is counted."""
    backend = open_backend(tmp_path)
    ref = os.path.basename(send(backend))
    former = claim_one(backend, ref)
    assert isinstance(former, Claim)
    settle_one(backend, former, Release())  # the first claim of a process does more

    def work() -> tuple[str, float]:
        answer = claim_one(backend, ref)
        return (str(answer.kind), answer.until or 0.0) if isinstance(answer, Refusal) else ("claimed", 0.0)

    kind, until = tracing.run(work, f"{calls}:error=EIO:when=1+")
    assert kind == "unusable"
    assert 50 < until - time.time() < 70
    claim = claim_one(backend, ref)
    assert isinstance(claim, Claim)
    assert (claim.attempts, claim.crashes) == (1, 0)


def test_a_finished_task_that_cannot_be_removed(tmp_path: Path) -> None:
    """It is postponed, does not run again, and is removed when that is possible."""
    backend = open_backend(tmp_path)
    ref = os.path.basename(send(backend))

    def work() -> float | None:
        worker = open_backend(tmp_path)
        return settle_one(worker, claim_one(worker, ref), Ack())

    until = tracing.run(work, "unlink,unlinkat:error=EIO:when=1+")
    assert until is not None
    assert 50 < until - time.time() < 70
    assert backend.counts().tasks[State.DEFERRED] == 1
    later = open_backend(tmp_path, clock=120)
    assert claim_one(later, ref) == Refusal(RefusalKind.GONE)
    assert sum(later.counts().tasks.values()) == 0


def test_a_process_without_descriptors_is_told_so(tmp_path: Path) -> None:
    """EMFILE in a producer is an error that says so, and nothing is left."""
    backend = open_backend(tmp_path)
    send(backend)

    def work() -> None:
        producer = open_backend(tmp_path)
        producer.counts()
        send(producer)

    with pytest.raises(SpoolerUnusable, match="this process has too many open files") as caught:
        tracing.run(work, "openat:error=EMFILE:when=1+")
    assert caught.value.errno in (errno.EMFILE, None)
    assert backend.counts().tasks[State.READY] == 1
