"""Senders of unique tasks in a directory are killed between any two steps: no key stays without its task, and no second
task of a key is stored. A key whose task was removed by others heals.
"""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from unspool import codec, points
from unspool.backends.change import Reprioritise, RunNow
from unspool.backends.spool import SpoolBackend
from unspool.message import Ack, Claim, Duplicate, Envelope, Message, Unique
from unspool.testing.exchange import claim_one, sealed, settle_one

from ..spool.sweep import sweep
from .test_keyvalue import killed_at

KEY = "a" * 32
SENDING = ["send.created", "send.written", "key.locked", "key.written", "key.synced", "send.renamed", "send.kept"]
CHANGING = ["reprioritise.begin", "key.locked", "key.written", "key.synced", "reprioritise.renamed"]


@pytest.fixture
def envelope() -> Envelope:
    """Return a task without a key."""
    return sealed(codec.encode(Message("task")))


@pytest.fixture
def backend(tmp_path: Path) -> SpoolBackend:
    """Return a backend on the directory."""
    return SpoolBackend(str(tmp_path / "mail"))


@pytest.fixture
def unique(envelope: Envelope) -> Envelope:
    """Return a task with a key."""
    return envelope._replace(unique=Unique(KEY))


def tasks(backend: SpoolBackend) -> int:
    """Return the number of tasks in the queue."""
    return sum(backend.counts().tasks.values())


def keys(backend: SpoolBackend) -> list[str]:
    """Return the names of the files of keys after a sweep."""
    sweep(backend.name)
    return os.listdir(f"{backend.name}/.unspool/keys")


@pytest.mark.parametrize(
    ("durable", "point"),
    [(durable, point) for durable in (True, False) for point in SENDING if durable or point != "key.synced"],
)
def test_a_sender_killed_at(tmp_path: Path, unique: Envelope, point: str, durable: bool) -> None:
    """The task is stored with its key, or neither is. The next send leaves one task in any case."""
    backend = SpoolBackend(str(tmp_path / "mail"), durable=durable)
    killed_at(point, lambda: backend.send([unique]))
    stored = tasks(backend)
    assert stored == (point in ("send.renamed", "send.kept"))
    assert keys(backend) == [KEY] * stored if stored else KEY not in keys(backend)
    (id,) = backend.send([unique])
    assert isinstance(id, Duplicate) == bool(stored)
    assert tasks(backend) == 1
    assert os.path.exists(id)
    assert backend.send([unique]) == [id]
    assert keys(backend) == [KEY]
    os.unlink(id)
    assert keys(backend) == []


@pytest.mark.parametrize("point", CHANGING)
def test_a_change_killed_at(backend: SpoolBackend, unique: Envelope, point: str) -> None:
    """The task keeps its key, under its former or its new name."""
    (id,) = backend.send([unique])
    killed_at(point, lambda: backend.change(id, Reprioritise(4)))
    (known,) = backend.send([unique])
    assert isinstance(known, Duplicate)
    assert os.path.exists(known)
    assert tasks(backend) == 1
    known = backend.change(known, Reprioritise(5))
    assert backend.send([unique]) == [known]


def _garbage(path: Path) -> None:
    path.write_bytes(b"\0\xff/../../etc/passwd\n" * 50)


def _half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-3])


@pytest.mark.parametrize("spoil", [_garbage, _half, Path.unlink, lambda path: shutil.rmtree(path.parent)])
def test_a_spoiled_key(backend: SpoolBackend, unique: Envelope, spoil: Callable[[Path], object]) -> None:
    """A key whose file is damaged or removed is free, and belongs to the next task."""
    backend.send([unique])
    spoil(Path(backend.name, ".unspool", "keys", KEY))
    (id,) = backend.send([unique])
    assert not isinstance(id, Duplicate)
    assert backend.send([unique]) == [id]
    assert tasks(backend) == 2


def test_a_removed_task(backend: SpoolBackend, unique: Envelope) -> None:
    """A task that uWSGI has run or a user has removed has no key. A copy of its file has none either."""
    (id,) = backend.send([unique])
    shutil.copy2(id, f"{id}9")
    os.unlink(id)
    (second,) = backend.send([unique])
    assert not isinstance(second, Duplicate)
    assert backend.send([unique]) == [second]


def test_a_name_that_another_task_has(backend: SpoolBackend, unique: Envelope) -> None:
    """A task whose due time is in its name keeps its key when it runs now, and it runs once."""
    (id,) = backend.send([unique._replace(due=4e9)])
    new = backend.change(id, RunNow())
    assert new != id
    assert backend.send([unique]) == [new]
    claim = claim_one(backend, os.path.basename(new))
    assert isinstance(claim, Claim)
    settle_one(backend, claim, Ack())
    assert keys(backend) == []


def test_a_task_without_a_key(backend: SpoolBackend, envelope: Envelope) -> None:
    """Sending a task without a key creates nothing for keys."""
    backend.send([envelope])
    assert not os.path.exists(f"{backend.name}/.unspool/keys")


def test_points() -> None:
    """The tests above reach all points of keys."""
    assert {name for name in points.NAMES if name.startswith("key.")} <= {*SENDING, *CHANGING}
