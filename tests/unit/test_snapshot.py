"""All tasks of a directory in order, with only some of their names in memory."""

import os
import random
import subprocess
import sys
import tracemalloc
from pathlib import Path

import pytest

from unspool import inspection
from unspool.backends.spool import SpoolBackend, scan, snapshot
from unspool.message import Claim, Content, State
from unspool.testing.exchange import claim_one, sealed

PAST, FUTURE = 1_700_000_000, 4_000_000_000


def write(root: Path, number: int, *, part: str = "", named: int = PAST, due: int | None = None) -> str:
    """An empty file with a task's name, and its ref.

    :param named: the time in its name, in whole seconds; ``due``: that of its file, if it is another.
    """
    ref = f"{part}/" * bool(part) + f"uwsgi_spoolfile_on_test_1_{number}_1_{named}_{number:06d}"
    (root / ref).touch()
    os.utime(root / ref, (due or named, due or named))
    return ref


@pytest.fixture
def backend(tmp_path: Path) -> SpoolBackend:
    """A spooler with two priorities."""
    backend = SpoolBackend(str(tmp_path / "mail"))
    backend.send([])
    for part in ("1", "7"):
        (tmp_path / "mail" / part).mkdir()
    return backend


def refs(backend: SpoolBackend, states: set[State], limit: int | None = None) -> list[str]:
    """Return the refs in a listing."""
    return [entry.id.removeprefix(f"{backend.name}/") for entry in inspection.tasks(backend, frozenset(states), limit)]


def test_the_order_holds_from_window_to_window(backend: SpoolBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 2,000 tasks of all kinds, 50 to 100 are held at once: each is listed once, in order, and counted correctly."""
    monkeypatch.setattr(snapshot, "_FEW", 50)
    monkeypatch.setattr(snapshot, "_MOST", 50)
    seed = random.randrange(1 << 32)
    print("seed", seed)
    source = random.Random(seed)
    ready, deferred = [], []
    for number in range(2000):
        part = source.choice(["", "", "1", "7"])
        match source.randrange(3):
            case 0:  # sent
                due = PAST + source.randrange(1000)
                ready.append((int(part or 9), due, write(Path(backend.name), number, part=part, named=due)))
            case 1:  # retried or failed: its file is later than its name
                due = source.choice([PAST, FUTURE]) + source.randrange(1000)
                ref = write(Path(backend.name), number, part=part, named=PAST - source.randrange(1000), due=due)
                (ready if due < FUTURE else deferred).append((int(part or 9), due, ref))
            case 2:  # postponed
                due = FUTURE + source.randrange(1000)
                deferred.append((int(part or 9), due, write(Path(backend.name), number, part=part, named=due)))
    listed = refs(backend, {State.READY})
    times = {ref: (rank, due) for rank, due, ref in ready + deferred}
    assert sorted(listed) == sorted(ref for _, _, ref in ready)
    assert [times[ref] for ref in listed] == sorted(times[ref] for ref in listed)
    later = refs(backend, {State.DEFERRED})
    assert sorted(later) == sorted(ref for _, _, ref in deferred)
    assert [times[ref][1] for ref in later] == sorted(times[ref][1] for ref in later)
    assert refs(backend, {State.READY}, 7) == listed[:7]
    assert refs(backend, {State.READY, State.DEFERRED}, len(listed) + 7) == listed + later[:7]
    counts = backend.counts().tasks
    assert (counts[State.READY], counts[State.DEFERRED]) == (len(listed), len(later))


def test_ready_ones_behind_many_that_wait(backend: SpoolBackend) -> None:
    """The first ready tasks are found, although more failed tasks than are held at first have earlier names."""
    for number in range(11_000):
        write(Path(backend.name), number, due=FUTURE)
    ready = [write(Path(backend.name), number, named=PAST + 1) for number in range(20)]
    assert refs(backend, {State.READY}, 10) == ready[:10]


def test_memory_does_not_grow_with_the_queue(backend: SpoolBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    """Listing 5,000 tasks needs only the memory of a few names."""
    monkeypatch.setattr(snapshot, "_MOST", 500)
    monkeypatch.setattr(scan, "_BATCH", 100)
    for number in range(5_000):
        write(Path(backend.name), number)
    tracemalloc.start()
    try:
        assert sum(1 for _ in inspection.tasks(backend)) == 5_000
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 600_000


def test_what_is_never_run_is_listed_last(backend: SpoolBackend) -> None:
    """A link and a hard link are corrupt wherever their names sort, and are listed once, for all states."""
    root = Path(backend.name)
    late, early = write(root, 1, named=FUTURE), write(root, 2)
    os.link(root / late, root / "7" / "uwsgi_spoolfile_on_test_1_3_1_1_000000")
    os.symlink("/etc/passwd", root / "uwsgi_spoolfile_on_test_1_4_1_1_000000")
    corrupt = ["7/uwsgi_spoolfile_on_test_1_3_1_1_000000", "uwsgi_spoolfile_on_test_1_4_1_1_000000", late]
    assert refs(backend, set(State)) == [early, *corrupt]
    assert refs(backend, {State.DEFERRED, State.CORRUPT}) == corrupt
    assert refs(backend, {State.DEFERRED}) == []
    assert backend.counts().tasks == dict.fromkeys(State, 0) | {State.READY: 1, State.CORRUPT: 3}


def test_what_runs_is_seen_among_many_locks(backend: SpoolBackend, tmp_path: Path) -> None:
    """A running task is listed as running, however many other files are locked and unlocked while the table of locks is
    read.
    """
    churn = (
        "import fcntl, os, sys\n"
        "fds = [os.open(f'{sys.argv[1]}/{n}', os.O_RDWR | os.O_CREAT) for n in range(300)]\n"
        "print('ready', flush=True)\n"
        "while os.getppid() == int(sys.argv[2]):\n"
        "    for fd in fds: fcntl.lockf(fd, fcntl.LOCK_EX)\n"
        "    for fd in fds: fcntl.lockf(fd, fcntl.LOCK_UN)\n"
    )
    ids = backend.send([sealed(Content({"msg": b"task"}, b"", None, None))] * 10)
    claim = claim_one(SpoolBackend(backend.name), os.path.basename(ids[0]))
    assert isinstance(claim, Claim)
    others = subprocess.Popen([sys.executable, "-c", churn, tmp_path, str(os.getpid())], stdout=subprocess.PIPE)
    try:
        assert others.stdout is not None
        assert others.stdout.readline() == b"ready\n"
        wrong = 0
        for _ in range(500):
            counts = backend.counts().tasks
            wrong += (counts[State.RUNNING], counts[State.READY]) != (1, 9)
        assert wrong == 0
    finally:
        others.kill()
        others.communicate()
        os.close(claim.token.file)
