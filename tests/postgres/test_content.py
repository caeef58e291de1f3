"""What a task holds: texts that no column can hold as they are, and payloads that may not fit into a worker."""

import contextlib

import psycopg
import pytest

from unspool.address import Address
from unspool.backends.postgres import PostgresBackend
from unspool.errors import SpoolerUnusable
from unspool.message import Ack, Bury, Claim, Envelope, Record, Refusal, RefusalKind, State
from unspool.retry import MAX_CRASHES
from unspool.settings import Settings

from .conftest import look_at

LARGE = b"x" * 1_000_000


@pytest.mark.parametrize("text", ["a\0b", "half of \ud83d a pair", "Traceback:\n\0\n\udcff", "\N{SNOWMAN}\nand all"])
def test_text_that_no_column_can_hold(address: Address, text: str) -> None:
    """A reason, an error and a label are stored with escapes; what can be stored is left as it is."""
    with contextlib.closing(look_at(address)) as backend:
        for disposition in (Ack(), Bury(text)):
            (id,) = backend.send([Envelope({"msg": b"task"}, b"", None, None)])
            claim = backend.claim(id.rpartition("/")[2])
            assert isinstance(claim, Claim)
            backend.settle(claim, disposition, Record(id, text, "processed", 1, 1.0, 0.1, 1, text))
        backend.flush()
        backend.record([Record(id, text, "crashed", 1, 1.0, 0.1, 1, text)])
        escaped = text.replace("\0", "\\x00").replace("\ud83d", "\\ud83d").replace("\udcff", "\\udcff")
        (dead,) = backend.entries(frozenset({State.DEAD}))
        assert dead.reason == escaped
        assert [(run.task, run.error) for run in backend.history()] == 3 * [(escaped, escaped)]


@pytest.mark.parametrize("ahead", [False, True])
def test_a_large_task(address: Address, ahead: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its attempt is counted before it is fetched, so that one which does not fit into memory is a crash; after the
    last one, its payload is not fetched any more."""
    with contextlib.closing(look_at(address)) as backend:
        refs = [backend.send([Envelope({"msg": b"task"}, LARGE, 3, None)])[0].rpartition("/")[2] for _ in range(2)]
        read = PostgresBackend._read
        for crashes in range(MAX_CRASHES):
            seen: list[object] = []

            def fetch(
                self: PostgresBackend, number: int, fence: int, *, whole: bool, seen: list[object] = seen
            ) -> bytes:
                with psycopg.connect(address.url) as other:
                    seen += other.execute("SELECT attempts FROM unspool.task WHERE id = %s", [number]).fetchone() or ()
                read(self, number, fence, whole=whole)
                raise MemoryError

            monkeypatch.setattr(PostgresBackend, "_read", fetch)
            if ahead:
                backend.claim_ahead(refs)
            with pytest.raises(SpoolerUnusable, match="does not fit into the memory"):
                backend.claim(refs[0])
            assert seen == [crashes + 1]
            backend.forget()
            with psycopg.connect(address.url) as other:
                other.execute("UPDATE unspool.task SET begun = NULL, attempts = 0 WHERE id = %s", [int(refs[1])])
        monkeypatch.setattr(PostgresBackend, "_read", read)
        hopeless = backend.claim(refs[0])
        assert isinstance(hopeless, Claim)
        assert (hopeless.crashes, hopeless.envelope.vars["msg"], hopeless.envelope.body) == (
            MAX_CRASHES,
            b"task",
            b"",
        )
        backend.settle(hopeless, Bury("killed its worker", begun=False))
        good = backend.claim(refs[1])
        assert isinstance(good, Claim)
        assert good.envelope.body == LARGE


def test_a_task_that_is_too_large(address: Address) -> None:
    """It is set aside unread, and the reason names the setting."""
    with contextlib.closing(PostgresBackend(address, Settings(max_task_size=0.5), trusting=True)) as backend:
        (id,) = backend.send([Envelope({"msg": b"task"}, LARGE, None, None)])
        refused = backend.claim(id.rpartition("/")[2])
        assert isinstance(refused, Refusal)
        assert refused.kind is RefusalKind.CORRUPT
        assert "max_task_size allows 524288" in refused.detail
        (entry,) = backend.entries()
        assert (entry.state, entry.attempts) == (State.CORRUPT, 0)
