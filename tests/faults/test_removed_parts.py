"""Parts of ``.unspool`` that are removed under the processes that use them: they are created again."""

import os
import shutil
from pathlib import Path

import pytest

from unspool import inspection
from unspool.backends.change import Remove
from unspool.backends.keyvalue import EPHEMERAL, FOREVER
from unspool.backends.spool import SpoolBackend
from unspool.backends.spool.attempts import Count, Sidecars
from unspool.backends.spool.directory import Directory
from unspool.message import Bury, Claim, Content, Record, State
from unspool.testing.exchange import claim_one, sealed, settle_one

from ..runtime.conftest import Place


@pytest.mark.parametrize(("part", "priority"), [("dead", None), ("dead", 5), ("", 5)])
def test_under_a_worker(place: Place, part: str, priority: int | None) -> None:
    """A task that fails for good after the removal is set aside once, with its own reason."""
    place.write_app("""
    @Spooler.task(max_attempts=1)
    def fail(name): note(name); raise ValueError(name)
    """)
    running = place.run()
    place.call(f"fail.using(priority={priority})('first')")
    running.wait_for_verdict("dead")
    shutil.rmtree(place.spool / ".unspool" / part)
    place.call(f"fail.using(priority={priority})('second')")
    running.wait_for_verdict("dead")
    reasons = [entry.reason for entry in inspection.tasks(place.backend)]
    assert reasons == ["ValueError: second"]
    assert place.backend.counts().tasks[State.DEAD] == 1
    assert running.stop() == 0
    assert running.verdicts() == ["dead", "dead"]
    assert place.lines() == ["first", "second"]


def use(backend: SpoolBackend, priority: int | None) -> None:
    """Do something that needs this part of ``.unspool``, and leave nothing."""
    ids = backend.send([sealed(Content({"msg": b"task"}, b"", priority, None))] * 3)
    dead, corrupt = (claim_one(backend, os.path.relpath(id, backend.name)) for id in ids[:2])
    assert isinstance(dead, Claim)
    assert isinstance(corrupt, Claim)
    settle_one(backend, dead, Bury("dead"))
    settle_one(backend, corrupt, Bury("corrupt", corrupt=True))
    (parcel,) = backend.depot.leave(ids[2:])
    backend.depot.gone(backend.depot.left([parcel], "elsewhere"))
    assert [entry.reason for entry in inspection.tasks(backend)] == ["dead", "corrupt"]
    for entry in list(inspection.tasks(backend)):
        backend.change(entry.id, Remove())
    assert sum(backend.counts().tasks.values()) == 0
    backend.switch(paused=True)
    assert backend.switch().paused
    backend.switch(paused=False)
    assert not backend.switch().paused
    registration = backend.register("worker")
    assert len(backend.live()) == 1
    registration.close()
    backend.record([Record("id", "task", "processed", 1, 1e9, 1.0, 1)])
    for life in (FOREVER, EPHEMERAL):
        backend.kv.drop("key")
        assert backend.kv.put("key", b"value", expect=0, life=life)
        assert [(key, item.value) for key, item in backend.kv.scan("")] == [("key", b"value")]


@pytest.mark.parametrize("priority", [None, 5])
@pytest.mark.parametrize("part", ["dead", "corrupt", "dead/5", "tmp", "run", "kv", "leaving", "left", ""])
def test_in_one_process(tmp_path: Path, part: str, priority: int | None) -> None:
    """Everything that needs the part works as before."""
    backend = SpoolBackend(str(tmp_path / "mail"), durable=False)
    for _ in range(3):
        use(backend, priority)
        shutil.rmtree(Path(backend.name, ".unspool", part), ignore_errors=part == "dead/5")


def test_with_many_priorities(tmp_path: Path) -> None:
    """With more priorities than a process holds open, the directory of dead tasks is created again for each."""
    backend = SpoolBackend(str(tmp_path / "mail"), durable=False)
    for id in backend.send([sealed(Content({"msg": b"task"}, b"", priority, None)) for priority in range(1, 71)]):
        backend.change(id, Remove())
    shutil.rmtree(Path(backend.name, ".unspool", "dead"))
    use(backend, 29)
    use(backend, 100)


def test_counts_beside_the_tasks(tmp_path: Path) -> None:
    """On a file system without extended attributes, the directory of attempts is created again as well."""
    backend = SpoolBackend(str(tmp_path / "mail"), durable=False)
    kept = Sidecars(Directory(backend.name))
    kept.write("", "5/task", Count(2, 1))
    assert kept.read("5/task") == Count(2, 1)
    shutil.rmtree(Path(backend.name, ".unspool", "attempts"))
    assert kept.begin("", "5/task") == Count(1, 0, "r")
    assert kept.begin("", "5/task") == Count(2, 1, "r")
