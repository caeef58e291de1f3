"""PgBouncer: in session mode everything works; in transaction mode sending and listing do, and serving is refused."""

import contextlib
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from unspool.address import Address
from unspool.backends.keyvalue import EPHEMERAL
from unspool.errors import SpoolerUnusable
from unspool.message import Ack, Claim, Content, State
from unspool.testing.exchange import claim_one, sealed, settle_one

from ..ports import free_port
from ..runtime.conftest import PATIENCE
from .conftest import look_at
from .server import NOBODY, Server, as_nobody

PROGRAM = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")
pytestmark = pytest.mark.skipif(PROGRAM is None, reason="there is no pgbouncer here")


@pytest.fixture(params=["transaction", "session"])
def pooled(request: pytest.FixtureRequest, server: Server, address: Address, tmp_path: Path) -> Iterator[Address]:
    """Return the address of the queue through a pooler."""
    port, place = free_port(), server.place / f"bouncer-{request.param}"
    place.mkdir()
    (place / "users").write_text('"postgres" ""\n')
    (place / "ini").write_text(
        f"[databases]\n* = host=127.0.0.1 port={server.port}\n[pgbouncer]\nlisten_addr = 127.0.0.1\n"
        f"listen_port = {port}\nauth_type = trust\nauth_file = {place}/users\npool_mode = {request.param}\n"
        "unix_socket_dir =\n"
    )
    if os.geteuid() == 0:
        for path in (place, *place.iterdir()):
            os.chown(path, NOBODY, NOBODY)
    assert PROGRAM is not None
    process = subprocess.Popen([PROGRAM, str(place / "ini")], stderr=subprocess.PIPE, text=True, **as_nobody())
    assert process.stderr is not None
    while "process up" not in process.stderr.readline():
        assert process.poll() is None
    yield address._replace(url=server.url(port=port))
    process.terminate()
    process.wait(30)
    process.stderr.close()
    shutil.rmtree(place)


def test_through_a_pooler(pooled: Address, request: pytest.FixtureRequest) -> None:
    """Sends and looks; then serves, or says what a worker needs."""
    backend = look_at(pooled)
    try:
        for _ in range(8):  # more often than it takes to have a statement prepared
            backend.send([sealed(Content({"msg": b"task"}, b"", None, None))])
        with psycopg.connect(pooled.url) as connection:
            backend.send_within(connection, [sealed(Content({"msg": b"task"}, b"", None, None))])
        assert backend.counts().tasks[State.READY] == 9
        backend.switch(paused=True)
        assert backend.switch().paused
        backend.switch(paused=False)
        if "transaction" in request.node.name:
            with pytest.raises(SpoolerUnusable, match="pools connections by transaction"):
                backend.feed()
            return
        feed = backend.feed()
        feed.refresh()
        for ticket in feed.take(9):
            claim = claim_one(backend, ticket.ref)
            assert isinstance(claim, Claim)
            settle_one(backend, claim, Ack())
        assert sum(backend.counts().tasks.values()) == 0
        feed.close()
    finally:
        backend.close()


def test_items_through_a_pooler(pooled: Address, request: pytest.FixtureRequest) -> None:
    """All works but ephemeral items where connections are shared by transactions; a wait looks from time to time."""
    with contextlib.closing(look_at(pooled)) as backend, contextlib.closing(look_at(pooled)) as other:
        version = backend.kv.put("key", b"old")
        assert version
        assert not backend.kv.wait({"key": version}, 0.01)
        woken: list[bool] = []
        thread = threading.Thread(target=lambda: woken.append(backend.kv.wait({"key": version}, PATIENCE)))
        thread.start()
        later = other.kv.put("key", b"new", expect=version)
        thread.join(PATIENCE)
        assert woken == [True]
        assert [item.version for _, item in backend.kv.scan("k")] == [later]
        if "transaction" in request.node.name:
            with pytest.raises(SpoolerUnusable, match="pools connections by transaction"):
                backend.kv.put("held", b"", life=EPHEMERAL)
        else:
            assert backend.kv.put("held", b"", life=EPHEMERAL)
            assert other.kv.put("held", b"", expect=0) is None
        assert other.kv.drop("key")
