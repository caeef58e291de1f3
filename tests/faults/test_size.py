"""Tasks larger than a worker's memory or than the setting allows, and files that change while they are read."""

import os
from pathlib import Path
from typing import Any

import pytest

from unspool import Spooler, configure, dispatch, inspection, points, raw_message, wire
from unspool.backends.change import RunNow
from unspool.backends.spool import SpoolBackend
from unspool.backends.spool.attempts import open_attempts
from unspool.backends.spool.directory import Directory
from unspool.compat import uwsgi
from unspool.errors import PayloadRefused
from unspool.message import Bury, Claim, Content, Outcome, Refusal, RefusalKind, State
from unspool.testing import FakeClock
from unspool.testing.exchange import claim_one, content_of, sealed, settle_one

from ..runtime.conftest import Place

LARGE = 200_000  # bytes: more than is read at first


def test_a_task_larger_than_a_workers_memory(place: Place) -> None:
    """Each attempt to read it counts as a crash. After three it is dead, and the tasks behind it have run."""
    place.write_app("""
    @Spooler.task
    def large(data): note("large"); return True
    @Spooler.task
    def mark(): note("mark"); return True
    if "TIGHT" in os.environ:
        import resource
        used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + (60 << 20), -1))
    """)
    place.call("large(b'x' * (45 << 20)); mark()")
    place.env["TIGHT"] = "1"
    running = place.run()
    dead = running.wait_for_verdict("dead")
    assert (dead["task"], dead["reason"]) == ("tasks:large", "killed its worker 3 times")
    assert place.lines() == ["mark"]
    assert running.stop() == 0
    refusals = [line["message"] for line in running.seen if "is not run" in line["message"]]
    assert len(refusals) == 1, "it is said once"
    assert "does not fit into the memory of process" in refusals[0]


def test_after_three_crashes_the_body_is_not_read(tmp_path: Path) -> None:
    """The claim that sets a task aside reads only its variables, so it cannot be the next crash."""
    backend = SpoolBackend(str(tmp_path / "mail"))
    (id,) = backend.send([sealed(Content({"msg": b"task"}, b"x" * LARGE, None, None))])
    attempts, ref = open_attempts(Directory(backend.name)), os.path.basename(id)
    attempts.write(id, ref, attempts.read(ref)._replace(crashes=3))
    claim = claim_one(backend, os.path.basename(id))
    assert isinstance(claim, Claim)
    assert (dict(content_of(claim).vars)["msg"], content_of(claim).body, claim.crashes) == (b"task", b"", 3)
    outcome = dispatch.prepare(claim, content_of(claim), 0.0)
    assert isinstance(outcome, Outcome)
    assert outcome.disposition == Bury("killed its worker 3 times", begun=False)
    settle_one(backend, claim, outcome.disposition)
    assert backend.counts().tasks[State.DEAD] == 1


@pytest.mark.parametrize("send", ["raw", "many", "uwsgi.spool"])
def test_sending_what_is_too_large(tmp_path: Path, send: str) -> None:
    """It is refused with the size, the limit and the name of the setting, and nothing is sent. A task of the largest
    size is sent and can be claimed.
    """
    configure(spoolers=[tmp_path / "mail"], max_task_size=1 / 16)
    backend = SpoolBackend(str(tmp_path / "mail"), max_size=1 << 16)
    with pytest.raises(PayloadRefused, match=r"takes 65\d{3} bytes, and max_task_size allows 0.0625 MB.*_TASK_SIZE"):
        _SENDERS[send](b"x" * ((1 << 16) + 1))
    assert sum(backend.counts().tasks.values()) == 0
    uwsgi.spool({"msg": b"task", "body": b"x" * (1 << 16)})
    (entry,) = inspection.tasks(backend)
    assert isinstance(claim_one(backend, os.path.basename(entry.id)), Claim)


_SENDERS: dict[str, Any] = {
    "raw": lambda data: Spooler.send_message_raw("task", payload=data),
    "many": lambda data: Spooler.send_many([raw_message("small"), raw_message("task", payload=data)]),
    "uwsgi.spool": lambda data: uwsgi.spool({"msg": b"task", "body": data}),
}


def test_a_file_that_is_too_large(tmp_path: Path) -> None:
    """It is set aside as corrupt, with a reason that says what to raise. After that, it can be retried."""
    path = _put(tmp_path, wire.dump({"msg": b"task"}, b"x" * LARGE, None))
    small = SpoolBackend(str(tmp_path / "mail"), max_size=LARGE // 4, clock=FakeClock(path.stat().st_mtime + 10))
    refusal = claim_one(small, path.name)
    assert isinstance(refusal, Refusal)
    assert refusal.kind is RefusalKind.CORRUPT
    (entry,) = inspection.tasks(small, frozenset({State.CORRUPT}))
    assert entry.reason == refusal.detail
    assert f"max_task_size allows {LARGE // 4}; raise UNSPOOL_MAX_TASK_SIZE, then retry" in entry.reason
    assert entry.attempts == 0
    large = SpoolBackend(str(tmp_path / "mail"), max_size=LARGE)
    claim = claim_one(large, os.path.basename(large.change(entry.id, RunNow())))
    assert isinstance(claim, Claim)
    assert (len(content_of(claim).body), claim.attempts, claim.crashes) == (LARGE, 1, 0)


@pytest.mark.parametrize("first", [1_000, LARGE // 2 + 1, LARGE])
def test_a_file_that_grows_while_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: int) -> None:
    """The worker waits for it, without counting an attempt, and claims it when it is complete."""
    whole = wire.dump({"msg": b"task"}, b"x" * LARGE, None)
    path = _put(tmp_path, whole[:first])
    clock = FakeClock()
    backend = SpoolBackend(str(tmp_path / "mail"), clock=clock)
    written = first

    def grow(name: str) -> None:
        nonlocal written
        if name == "claim.counted":
            with path.open("ab") as file:
                file.write(whole[written : written + 10])
            written += 10

    with monkeypatch.context() as patch:
        patch.setattr(points, "reach", grow)
        for _ in range(3):
            clock.now = path.stat().st_mtime
            refusal = claim_one(backend, path.name)
            assert isinstance(refusal, Refusal)
            assert refusal.kind is RefusalKind.EARLY
    path.write_bytes(whole)
    clock.now = path.stat().st_mtime
    claim = claim_one(backend, path.name)
    assert isinstance(claim, Claim)
    assert (len(content_of(claim).body), claim.attempts, claim.crashes) == (LARGE, 1, 0)


def _put(tmp_path: Path, data: bytes) -> Path:
    """Write a file in place, as another program does."""
    place = tmp_path / "mail"
    place.mkdir(mode=0o700)
    path = place / "uwsgi_spoolfile_on_elsewhere_1_1_1_1_1"
    path.write_bytes(data)
    path.chmod(0o600)
    return path
