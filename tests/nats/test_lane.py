"""The short way to the streams: used where it can be, and nothing is lost or done twice where it breaks."""

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.nats.conftest import Open, queue_on, until
from tests.nats.server import Server
from tests.runtime.conftest import PATIENCE
from unspool import codec
from unspool.backends.nats import NatsBackend, runs
from unspool.backends.nats.jetstream import JetStream
from unspool.backends.nats.sync_connection import Broken, SyncConnection
from unspool.message import Ack, Claim, Message, Refusal, State


def send(backend: NatsBackend, *messages: Message) -> list[str]:
    """Sends tasks; their ids."""
    return backend.send([codec.encode(message) for message in messages or (Message("task"),)])


def claim(backend: NatsBackend, id: str) -> Claim:
    """Claims a task."""
    found = backend.claim(id.rpartition("/")[2])
    assert isinstance(found, Claim), found
    return found


def records(backend: NatsBackend) -> int:
    """How many tasks are said to run."""
    names = backend._place.names

    async def count(stream: JetStream) -> int:
        return len([one async for one in stream.read(names.state, names.run("*"), patience=5)])

    return backend._place.call(count)


@pytest.fixture
def worker(backend: NatsBackend) -> NatsBackend:
    """A backend that has claimed before: the first claim says to other hosts that this process lives."""
    (id,) = send(backend)
    backend.settle(claim(backend, id), Ack())
    backend.flush()
    assert lane_of(backend) is not None
    return backend


def lane_of(backend: NatsBackend) -> SyncConnection:
    """The one that is open."""
    lane = backend._place._sync
    assert lane is not None
    assert not lane.closed
    return lane


def cut(backend: NatsBackend) -> None:
    """Breaks it."""
    lane_of(backend)._socket.shutdown(socket.SHUT_RDWR)


def test_a_run(worker: NatsBackend) -> None:
    """A claim and an end go that way; nothing is left behind."""
    (id,) = send(worker)
    lane = lane_of(worker)
    before = lane._number
    worker.settle(claim(worker, id), Ack())
    worker.flush()
    assert lane_of(worker) is lane
    assert lane._number - before == 5  # the record, the task, the record of its end, its deletion, that of the record
    assert worker.find(id) is None
    until(lambda: records(worker) == 0)


def test_a_task_that_is_large(worker: NatsBackend) -> None:
    """What arrives in many parts is put together; a batch of them goes out in parts too."""
    messages = [Message("task", os.urandom(3 << 20)) for _ in range(3)]
    lane = lane_of(worker)
    for id, message in zip(send(worker, *messages), messages, strict=True):
        found = claim(worker, id)
        assert codec.decode(found.envelope).payload == message.payload
        worker.settle(found, Ack())
    worker.flush()
    assert lane_of(worker) is lane
    assert sum(worker.counts().values()) == 0


def test_what_is_not_there_or_not_due(worker: NatsBackend) -> None:
    """A task that has gone, one that another has, and one that was written anew are told apart as ever."""
    gone, taken = send(worker, Message("task"), Message("task"))
    worker.remove(gone)
    assert isinstance(worker.claim(gone.rpartition("/")[2]), Refusal)
    found = claim(worker, taken)
    refusal = worker.claim(taken.rpartition("/")[2])
    assert isinstance(refusal, Refusal)
    worker.settle(found, Ack())
    worker.flush()
    until(lambda: records(worker) == 0)


def test_refused_claims_leave_no_answer_behind(worker: NatsBackend, url: str, opened: Open) -> None:
    """The answers that a refused claim does not read are dropped, as the process may be refused for weeks."""
    other = opened(url)
    lane = lane_of(worker)
    for _ in range(5):
        (id,) = send(other)
        found = claim(other, id)
        assert isinstance(worker.claim(id.rpartition("/")[2]), Refusal)
        other.settle(found, Ack())
        other.flush()
    (id,) = send(worker)
    worker.settle(claim(worker, id), Ack())
    worker.flush()
    assert lane_of(worker) is lane
    assert (lane._replies, lane._ignored) == ({}, set())


def test_an_end_whose_answer_is_lost(worker: NatsBackend, caplog: pytest.LogCaptureFixture) -> None:
    """It is told again until it is heard; a record that could not be deleted is void, and is swept."""
    first, second = send(worker, Message("task"), Message("task"))
    worker.settle(claim(worker, first), Ack())
    cut(worker)
    found = claim(worker, second)
    until(lambda: worker.find(first) is None)
    worker._place._next_lane = 0.0
    worker.settle(found, Ack())
    lane = lane_of(worker)
    lane.flush()
    cut(worker)
    worker.flush()
    assert sum(worker.counts().values()) == 0
    worker._place.call(lambda stream: runs.drop_void(stream, worker._place.names, 5))  # as supervisors do now and then
    assert records(worker) == 0
    assert "taken over" not in caplog.text


def test_an_end_that_comes_too_late(worker: NatsBackend, caplog: pytest.LogCaptureFixture) -> None:
    """Of a task that is no longer there is said so."""
    (id,) = send(worker)
    found = claim(worker, id)
    names, record = worker._place.names, found.token.record
    runs.forget(names, found.ref, record)
    worker._place.call(lambda stream: stream.delete(names.state, record, patience=5))
    worker.remove(id)
    worker.settle(found, Ack())
    worker.flush()
    assert "was taken over or removed while this process was cut off" in caplog.text


def test_a_claim_whose_answer_is_lost(worker: NatsBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    """The record may have been written: it is found to be this process's own, and the attempt is its first."""
    (id,) = send(worker)
    last_of = SyncConnection.last_of

    def lose(self: SyncConnection, number: int) -> None:
        last_of(self, number)
        self.close()
        raise Broken("lost")

    monkeypatch.setattr(SyncConnection, "last_of", lose)
    found = claim(worker, id)
    assert (found.attempts, found.crashes) == (1, 0)
    worker.settle(found, Ack())
    worker.flush()
    assert sum(worker.counts().values()) == 0
    until(lambda: records(worker) == 0)


def test_a_batch_that_breaks(backend: NatsBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was sent by the one way and not answered is sent by the other, under the same ids: it is there once."""
    send(backend)
    lane_of(backend)
    answer, left = SyncConnection.answer, [20]

    def lose(self: SyncConnection, number: int) -> object:
        left[0] -= 1
        if left[0] == -1:
            cut(backend)
        return answer(self, number)

    monkeypatch.setattr(SyncConnection, "answer", lose)
    send(backend, *[Message("task", number) for number in range(50)])
    assert left[0] < 0
    assert backend.counts()[State.READY] == 51


def test_many_threads(backend: NatsBackend) -> None:
    """One thread has the lane, the others go the usual way meanwhile."""
    with ThreadPoolExecutor(8) as pool:
        ids = [id for sent in pool.map(lambda _: send(backend), range(200)) for id in sent]
    assert len(set(ids)) == 200
    assert backend.counts()[State.READY] == 200


def test_a_child(worker: NatsBackend) -> None:
    """A fork opens one of its own, and its parent's goes on."""
    lane = lane_of(worker)
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            send(worker)
            status = int(lane_of(worker) is lane)
        finally:
            os._exit(status)
    assert os.waitpid(pid, 0)[1] == 0
    send(worker)
    assert lane_of(worker) is lane
    assert worker.counts()[State.READY] == 2


@pytest.mark.parametrize(
    ("more", "login"),
    [
        ("authorization { user: someone, password: 's:cr@t' }", "someone:s%3Acr%40t@"),
        ("authorization { token: hush }", "hush@"),
    ],
)
def test_users(tmp_path: Path, opened: Open, more: str, login: str) -> None:
    """It says who it is."""
    server = Server(tmp_path / "server", more=more).start()
    try:
        backend = opened(queue_on(server.url.replace("//", f"//{login}")))
        send(backend)
        lane_of(backend)
    finally:
        server.remove()


@pytest.fixture
def certified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server that demands TLS, whose certificate is trusted."""
    if shutil.which("openssl") is None:
        pytest.skip("there is no openssl to make a certificate")
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    names = ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    made = subprocess.run(
        [*command, *names, "-keyout", key, "-out", certificate], capture_output=True, timeout=PATIENCE, check=False
    )
    assert made.returncode == 0, made.stderr
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    more = f'tls {{ cert_file: "{certificate}", key_file: "{key}" }}'
    server = Server(tmp_path / "server", more=more).start()
    yield server
    server.remove()


def test_tls(certified: Server, opened: Open) -> None:
    """Where the servers demand TLS both connections have it; a task is sent and run."""
    backend = opened(queue_on(certified.url, "&tls=true"))
    first, second = send(backend, Message("task"), Message("task", b"x" * (1 << 20)))
    for id in (first, second):
        backend.settle(claim(backend, id), Ack())
    backend.flush()
    assert type(lane_of(backend)._socket).__name__ == "SSLSocket"
    assert sum(backend.counts().values()) == 0
