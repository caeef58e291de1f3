"""Tasks that are cut short at any byte, and tasks that this program cannot run: they are set aside or kept, and
named.
"""

import os
import pickle
import time
from pathlib import Path

from unspool import codec, inspection, raw_message, wire
from unspool.backends.spool import SpoolBackend
from unspool.message import Claim, Content, RefusalKind, Release, State
from unspool.testing.exchange import claim_one, content_of, sealed, settle_one

from ..runtime.conftest import Place


def test_cut_short_at_every_byte(tmp_path: Path) -> None:
    """However much is left of a task, it does not run, and is set aside unchanged with a reason."""
    backend = SpoolBackend(str(tmp_path / "mail"), clock=lambda: time.time() + 10)
    whole = wire.dump({"msg": b"task", "a": b"1" * 300}, b"body" * 50, None)
    (id,) = backend.send([sealed(Content({"msg": b"good"}, b"", None, None))])
    for size in range(len(whole)):
        path = Path(backend.name, f"uwsgi_spoolfile_on_cut_{size}_1_1_1_1")
        path.write_bytes(whole[:size])
        answer = claim_one(backend, path.name)
        assert getattr(answer, "kind", None) is RefusalKind.CORRUPT, size
        assert not path.exists()
    aside = list(inspection.tasks(backend, frozenset({State.CORRUPT})))
    assert sorted(entry.size for entry in aside) == list(range(len(whole)))
    assert all(entry.reason for entry in aside)
    assert all(Path(entry.id).read_bytes() == whole[: entry.size] for entry in aside)
    assert isinstance(claim_one(backend, os.path.basename(id)), Claim)


def test_each_bit_altered(tmp_path: Path) -> None:
    """A changed bit anywhere in a task is detected."""
    backend = SpoolBackend(str(tmp_path / "mail"), clock=lambda: time.time() + 10)
    backend.switch(period=300)  # makes it
    whole = wire.dump({"msg": b"task"}, b"body", None)
    for place in range(len(whole) * 8):
        data = bytearray(whole)
        data[place // 8] ^= 1 << place % 8
        path = Path(backend.name, f"uwsgi_spoolfile_on_bit_{place}_1_1_1_1")
        path.write_bytes(data)
        answer = claim_one(backend, path.name)
        if isinstance(answer, Claim):  # it hit the seal's own name, or the header's byte that means nothing
            content = content_of(answer)
            assert not content.sealed or content[:2] == ({"msg": b"task"}, b"body")
            settle_one(backend, answer, Release())


def test_code_of_another_version(place: Place) -> None:
    """A missing function, one with other arguments, a missing type, and a payload of a newer Python or of a missing
    class: each is kept for a deploy, and is then dead with a reason that names it. The others run.
    """
    place.write_app("""
    class Gone: pass
    class Mail(SpoolerTask):
        type_id = "mail"
        def process(self): return True
    @Spooler.task(max_attempts=2, retry_delay=0)
    def removed(n): return True
    @Spooler.task(max_attempts=2, retry_delay=0)
    def changed(n): return True
    @Spooler.task(max_attempts=2, retry_delay=0)
    def takes(what): return True
    @Spooler.task
    def mark(): note("mark"); return True
    """)
    place.call("""
        removed(1); changed(1); takes(Gone())
        Spooler.send_message_raw("ucfg_mail", payload=1)
        mark()
    """)
    newer = codec.encode(raw_message("ucfg_mail", payload=1))
    body = b"\x80" + bytes([pickle.HIGHEST_PROTOCOL + 1]) + newer.body[2:]
    place.backend.send([sealed(newer._replace(body=body))])
    place.write_app("""
    @Spooler.task(max_attempts=2, retry_delay=0)
    def changed(n, m): return True
    @Spooler.task(max_attempts=2, retry_delay=0)
    def takes(what): return True
    @Spooler.task
    def mark(): note("mark"); return True
    """)
    running = place.burst()
    assert place.lines() == ["mark"]
    said = " / ".join(line["reason"] for line in running.seen if line.get("verdict") not in (None, "processed"))
    for name in ("tasks:removed", "missing 1 required positional argument: 'm'", "Gone", "mail", "protocol"):
        assert name in said, said
    assert place.backend.counts().tasks[State.DEAD] == 1  # changed: its two attempts are made
    assert place.backend.counts().tasks[State.DEFERRED] == 4, list(inspection.tasks(place.backend))  # for a deploy
