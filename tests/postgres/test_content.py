"""Texts that no column can store unchanged, and payloads that do not fit into the memory of a worker."""

import contextlib

import psycopg
import pytest

from unspool import inspection
from unspool.address import Address
from unspool.backends.postgres import PostgresBackend
from unspool.backends.postgres.content import Content as Rows
from unspool.errors import SpoolerUnusable
from unspool.message import Ack, Bury, Claim, Content, Record, Refusal, RefusalKind, State
from unspool.retry import MAX_CRASHES
from unspool.settings import Settings
from unspool.testing.exchange import claim_one, content_of, sealed, settle_one

from .conftest import look_at

LARGE = b"x" * 1_000_000


@pytest.mark.parametrize("text", ["a\0b", "half of \ud83d a pair", "Traceback:\n\0\n\udcff", "\N{SNOWMAN}\nand all"])
def test_text_that_no_column_can_hold(address: Address, text: str) -> None:
    """Reasons, errors and labels are stored with escapes where needed, and otherwise unchanged."""
    with contextlib.closing(look_at(address)) as backend:
        for disposition in (Ack(), Bury(text)):
            (id,) = backend.send([sealed(Content({"msg": b"task"}, b"", None, None))])
            claim = claim_one(backend, id.rpartition("/")[2])
            assert isinstance(claim, Claim)
            settle_one(backend, claim, disposition, Record(id, text, "processed", 1, 1.0, 0.1, 1, text))
        backend.record([Record(id, text, "crashed", 1, 1.0, 0.1, 1, text)])
        escaped = text.replace("\0", "\\x00").replace("\ud83d", "\\ud83d").replace("\udcff", "\\udcff")
        (dead,) = inspection.tasks(backend, frozenset({State.DEAD}))
        assert dead.reason == escaped
        assert [(run.task, run.error) for run in inspection.runs(backend)] == 3 * [(escaped, escaped)]


@pytest.mark.parametrize("count", [1, 2])
def test_a_large_task(address: Address, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The attempt is counted before the payload is read, so a payload that does not fit into memory is a crash.

    After the last crash, it is not read. A task that is claimed with it loses no attempt.
    """
    with contextlib.closing(look_at(address)) as backend:
        refs = [
            backend.send([sealed(Content({"msg": b"task"}, LARGE, 3, None))])[0].rpartition("/")[2] for _ in range(2)
        ]
        read = Rows._read  # noqa: SLF001  between the count of the attempt and the run
        for crashes in range(MAX_CRASHES):
            seen: list[object] = []

            def fetch(self: Rows, number: int, fence: int, *, whole: bool, seen: list[object] = seen) -> bytes:
                with psycopg.connect(address.url) as other:
                    seen += other.execute("SELECT attempts FROM unspool.task WHERE id = %s", [number]).fetchone() or ()
                read(self, number, fence, whole=whole)
                raise MemoryError

            monkeypatch.setattr(Rows, "_read", fetch)
            with pytest.raises(SpoolerUnusable, match="does not fit into the memory"):
                backend.exchange((), refs[:count])
            assert seen == [crashes + 1]
        monkeypatch.setattr(Rows, "_read", read)
        hopeless, good = backend.exchange((), refs).taken
        assert isinstance(hopeless, Claim)
        assert (hopeless.crashes, content_of(hopeless).vars["msg"]) == (MAX_CRASHES, b"task")
        assert len(hopeless.envelope.data) < len(LARGE)
        assert isinstance(good, Claim)
        assert (good.attempts, good.crashes, content_of(good).body) == (1, 0, LARGE)


def test_a_task_that_is_too_large(address: Address) -> None:
    """A task larger than max_task_size is set aside without being read, and the reason names the setting."""
    with contextlib.closing(PostgresBackend(address, Settings(max_task_size=0.5))) as backend:
        (id,) = backend.send([sealed(Content({"msg": b"task"}, LARGE, None, None))])
        refused = claim_one(backend, id.rpartition("/")[2])
        assert isinstance(refused, Refusal)
        assert refused.kind is RefusalKind.CORRUPT
        assert "max_task_size allows 524288" in refused.detail
        (entry,) = inspection.tasks(backend)
        assert (entry.state, entry.attempts) == (State.CORRUPT, 0)
