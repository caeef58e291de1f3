"""Connections to the servers: their number, and that nothing is lost or done twice when they break."""

import base64
import contextlib
import gc
import json
import os
import shutil
import socket
import subprocess
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import nkeys
import pytest

from tests.nats.conftest import Open, queue_on, until
from tests.nats.server import Server
from tests.runtime.conftest import PATIENCE
from unspool import address, codec, inspection
from unspool.backends.change import Remove
from unspool.backends.nats import NatsBackend, runs
from unspool.backends.nats.connection import Connection
from unspool.backends.nats.jetstream import JetStream
from unspool.backends.nats.requests import Request
from unspool.errors import ConfigurationError, SpoolerUnreachable, SpoolerUnusable
from unspool.message import Ack, Bury, Claim, Disposition, End, Message, Refusal, RefusalKind, Retry, State
from unspool.settings import Settings
from unspool.testing.exchange import claim_one, content_of, sealed


def send(backend: NatsBackend, *messages: Message) -> list[str]:
    """Send tasks, and return their ids."""
    return backend.send([sealed(codec.encode(message)) for message in messages or (Message("task"),)])


def claim(backend: NatsBackend, id: str) -> Claim:
    """Claim a task."""
    found = claim_one(backend, id.rpartition("/")[2])
    assert isinstance(found, Claim), found
    return found


def records(backend: NatsBackend) -> int:
    """Return the number of records of runs."""
    names = backend.cluster.names

    def count(stream: JetStream) -> int:
        return len(list(stream.read(names.state, names.run("*"))))

    return backend.cluster.call(count)


def end(backend: NatsBackend, *claims: Claim) -> None:
    """Settle claims as finished."""
    backend.exchange([End(claim, Ack()) for claim in claims], [])


def connections(backend: NatsBackend) -> list[Connection]:
    """Return the open connections that are idle."""
    return [stream.open() for stream in backend.cluster._idle]  # noqa: SLF001  to find the connections


def cut(backend: NatsBackend) -> None:
    """Break the idle connections."""
    for connection in connections(backend):
        connection._socket.shutdown(socket.SHUT_RDWR)  # noqa: SLF001  to break it


@pytest.fixture
def worker(backend: NatsBackend) -> NatsBackend:
    """Return a backend that has claimed before. The first claim also registers the process for other hosts."""
    (id,) = send(backend)
    end(backend, claim(backend, id))
    return backend


Loses = Callable[[str], None]


@pytest.fixture
def lose(monkeypatch: pytest.MonkeyPatch) -> Loses:
    """Break the connection instead of answering, once a request has this word in its subject."""

    def lose(word: str) -> None:
        ask, left = JetStream._ask_some, [word]  # noqa: SLF001  to lose an answer

        def ask_some(self: JetStream, requests: Sequence[Request], some: Any, found: Any, *more: Any) -> None:
            ask(self, requests, some, found, *more)
            if left and any(left[0] in requests[index].subject for index in some):
                left.clear()
                for index in some:
                    found[index] = None
                self.close()
                raise ConnectionResetError("the answers are lost")

        monkeypatch.setattr(JetStream, "_ask_some", ask_some)

    return lose


def test_a_run(worker: NatsBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    """The requests of an exchange are written at once, and all answers are read. No record is left."""
    ids = send(worker, *[Message("task", number) for number in range(8)])
    refs = [id.rpartition("/")[2] for id in ids]
    begun = [one for one in worker.exchange([], refs[:4]).taken if isinstance(one, Claim)]
    written, flush = list[bytes](), Connection.flush
    connection = connections(worker)[-1]

    def noted(self: Connection) -> None:
        if self is connection and self._out:
            written.append(bytes(self._out))
        flush(self)

    monkeypatch.setattr(Connection, "flush", noted)
    taken = worker.exchange([End(one, Ack()) for one in begun], refs[4:]).taken
    claims = [one for one in taken if isinstance(one, Claim)]
    assert len(claims) == 4
    first, *rest = written
    assert (first.count(b"PUB "), first.count(b".ended."), first.count(b".MSG.GET.")) == (4 * 4, 4, 4)
    assert {subject.split(b" ")[1].split(b".")[-1] for subject in rest} == {worker.cluster.names.state.encode()}
    monkeypatch.setattr(Connection, "flush", flush)
    end(worker, *claims)
    assert connection in connections(worker)
    assert not connection._replies  # noqa: SLF001  no reply is left over
    assert sum(worker.counts().tasks.values()) == 0
    until(lambda: records(worker) == 0)


def test_a_task_that_is_large(worker: NatsBackend) -> None:
    """A message that arrives or is sent in many parts is complete, also within a batch."""
    messages = [Message("task", os.urandom(3 << 20)) for _ in range(3)]
    before = connections(worker)
    for id, message in zip(send(worker, *messages), messages, strict=True):
        found = claim(worker, id)
        assert codec.decode(content_of(found)).payload == message.payload
        end(worker, found)
    assert before[0] in connections(worker)
    assert sum(worker.counts().tasks.values()) == 0


def test_what_is_not_there_or_not_due(worker: NatsBackend) -> None:
    """A task that is gone or running is refused, and no record is left."""
    gone, taken = send(worker, Message("task"), Message("task"))
    worker.change(gone, Remove())
    found = claim(worker, taken)
    refused = worker.exchange([], [gone.rpartition("/")[2], taken.rpartition("/")[2]]).taken
    assert refused == [Refusal(RefusalKind.GONE), Refusal(RefusalKind.BUSY)]
    end(worker, found)
    until(lambda: records(worker) == 0)


def test_an_end_whose_answer_is_lost(worker: NatsBackend, lose: Loses, caplog: pytest.LogCaptureFixture) -> None:
    """An end is sent again until it is answered. A record that was not deleted is void, and is removed later."""
    first, second = send(worker, Message("task"), Message("task"))
    for id in (first, second):
        found = claim(worker, id)
        lose(".ended.")
        end(worker, found)
        assert inspection.find(worker, id) is None
    assert sum(worker.counts().tasks.values()) == 0
    worker.cluster.call(lambda stream: list(runs.drop_void(stream, worker.cluster.names)))  # as supervisors do
    until(lambda: records(worker) == 0)
    assert "taken over" not in caplog.text


@pytest.mark.parametrize("disposition", [Ack(), Retry(0.0), Bury("hopeless")])
def test_an_end_without_a_deletion(
    tmp_path: Path, opened: Open, monkeypatch: pytest.MonkeyPatch, disposition: Disposition
) -> None:
    """An end is not confirmed before the server has confirmed the deletion: it would run again once its record expires.

    The server refuses the deletion to this user without an answer.
    """
    users = """authorization { users: [
        { user: all, password: all },
        { user: some, password: some, permissions: { publish: { deny: "$JS.API.STREAM.MSG.DELETE.>" } } }
    ] }"""
    monkeypatch.setattr("unspool.backends.nats.connection.ANSWER", 0.5)
    server = Server(tmp_path / "server", more=users).start()
    try:
        url = queue_on(server.url.replace("//", "//all:all@"))
        backend, refused = opened(url), opened(url.replace("all:all", "some:some"), patience=0.2)
        (id,) = send(backend)
        found = claim(backend, id)
        with pytest.raises(SpoolerUnreachable):
            refused.exchange([End(found, disposition)], [])
        backend.exchange([End(found, disposition, repeated=True)], [])
        entry = inspection.find(backend, id)
        assert (entry and entry.state) == {Ack: None, Retry: State.READY, Bury: State.DEAD}[type(disposition)]
    finally:
        server.remove()


def test_an_end_that_is_repeated(worker: NatsBackend, caplog: pytest.LogCaptureFixture) -> None:
    """An end that was settled by a call that raised is settled once, and nothing is logged."""
    (id,) = send(worker)
    found = claim(worker, id)
    end(worker, found)
    assert worker.exchange([End(found, Ack(), repeated=True)], []).ended == [None]
    assert not caplog.records


def test_an_end_that_comes_too_late(worker: NatsBackend, caplog: pytest.LogCaptureFixture) -> None:
    """The end of a task that does not exist any more is logged."""
    (id,) = send(worker)
    found = claim(worker, id)
    names, record = worker.cluster.names, found.token.record
    worker.cluster.call(lambda stream: stream.delete(names.state, record))
    worker.change(id, Remove())
    end(worker, found)
    assert "was taken over or removed while this process was cut off" in caplog.text


def test_claims_whose_answers_are_lost(worker: NatsBackend, lose: Loses) -> None:
    """If the answers to claims are lost, the tasks are claimed nevertheless, with one attempt and no crash."""
    ids = send(worker, Message("one"), Message("two"))
    lose(".run.")
    claims = [one for one in worker.exchange([], [id.rpartition("/")[2] for id in ids]).taken if isinstance(one, Claim)]
    assert [(one.attempts, one.crashes) for one in claims] == [(1, 0), (1, 0)]
    end(worker, *claims)
    assert sum(worker.counts().tasks.values()) == 0
    until(lambda: records(worker) == 0)


@contextlib.contextmanager
def losing() -> Iterator[None]:
    """Break the connection instead of answering, for all requests."""
    ask = JetStream._ask_some  # noqa: SLF001  to lose an answer

    def ask_some(self: JetStream, requests: Sequence[Request], some: Any, found: Any, *more: Any) -> None:
        ask(self, requests, some, found, *more)
        for index in some:
            found[index] = None
        self.close()
        raise ConnectionResetError("the answers are lost")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(JetStream, "_ask_some", ask_some)
        yield


def test_claims_of_a_call_that_raises(own_server: Server, opened: Open) -> None:
    """Claims of a call that raised are released by the next call, and do not count as crashes."""
    worker, other = (opened(url, patience=0.5) for url in [queue_on(own_server.url)] * 2)
    ids = send(worker, Message("one"), Message("two"))
    refs = [id.rpartition("/")[2] for id in ids]
    end(worker, claim(worker, send(worker)[0]))
    with losing(), pytest.raises(SpoolerUnreachable):
        worker.exchange([], refs)
    assert records(worker) == 2
    assert worker.exchange([], []).taken == []
    assert records(worker) == 0
    claims = [one for one in other.exchange([], refs).taken if isinstance(one, Claim)]
    assert [(one.attempts, one.crashes) for one in claims] == [(1, 0), (1, 0)]


def test_claims_that_are_released_late(own_server: Server, opened: Open) -> None:
    """If the servers are away during the next call as well, the claims are released while the worker waits."""
    worker = opened(queue_on(own_server.url, "&lease=1"), patience=0.5)
    ids = send(worker, Message("one"), Message("two"))
    end(worker, claim(worker, send(worker)[0]))
    with losing():
        with pytest.raises(SpoolerUnreachable):
            worker.exchange([], [id.rpartition("/")[2] for id in ids])
        assert worker.exchange([], []).taken == []
    until(lambda: records(worker) == 0)


def test_claims_that_the_servers_store_late(own_server: Server, opened: Open) -> None:
    """Servers without a quorum answer reads, and store a claim once they have a quorum. It is released then."""
    worker = opened(queue_on(own_server.url, "&lease=1"), patience=0.5)
    ids = send(worker, Message("one"), Message("two"))
    end(worker, claim(worker, send(worker)[0]))
    ask, stored = JetStream._ask_some, list[Request]()  # noqa: SLF001  to hold requests back

    def ask_some(self: JetStream, requests: Sequence[Request], some: Sequence[int], *more: Any) -> None:
        if claims := [requests[index] for index in some if ".run." in requests[index].subject]:
            stored[:] = claims
        if claims or any(".live." in requests[index].subject for index in some):
            raise TimeoutError("there is no quorum")
        ask(self, requests, some, *more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(JetStream, "_ask_some", ask_some)
        with pytest.raises(SpoolerUnreachable):
            worker.exchange([], [id.rpartition("/")[2] for id in ids])
        assert worker.exchange([], []).taken == []
        with worker.cluster.stream() as stream:
            for request in stored:
                ask(stream, [request], [0], [None], set(), time.monotonic() + PATIENCE)
        assert records(worker) == 2
    until(lambda: records(worker) == 0)


def test_a_batch_that_breaks(backend: NatsBackend, lose: Loses) -> None:
    """Tasks that were sent and not answered are sent again under the same ids, and stored once."""
    lose(".now.")
    send(backend, *[Message("task", number) for number in range(50)])
    assert backend.counts().tasks[State.READY] == 50


def test_a_connection_that_the_server_has_closed(worker: NatsBackend) -> None:
    """A closed connection is noticed before a request is sent, and another is opened."""
    before = connections(worker)
    cut(worker)
    send(worker)
    assert not set(before) & set(connections(worker))
    assert worker.counts().tasks[State.READY] == 1


def test_many_threads(backend: NatsBackend) -> None:
    """Each thread has a connection while it sends. A few connections are kept afterwards."""
    with ThreadPoolExecutor(16) as pool:
        ids = [id for sent in pool.map(lambda _: send(backend), range(200)) for id in sent]
    assert len(set(ids)) == 200
    assert backend.counts().tasks[State.READY] == 200
    assert len(connections(backend)) <= 8


def test_a_child(worker: NatsBackend) -> None:
    """A forked child opens its own connections, and those of its parent remain usable."""
    before = connections(worker)
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            send(worker)
            status = int(bool(set(connections(worker)) & set(before)))
        finally:
            os._exit(status)
    assert os.waitpid(pid, 0)[1] == 0
    send(worker)
    assert set(connections(worker)) >= set(before)
    assert worker.counts().tasks[State.READY] == 2


def test_a_queue_that_is_dropped(url: str) -> None:
    """The connections of a deleted backend and its feeds are closed, so Python warns about no open sockets."""
    found = address.parse(url)
    backend = NatsBackend(found, Settings())
    feed = backend.feed()
    send(backend)
    descriptors = [feed.fileno(), *(one.fileno() for one in connections(backend))]
    gc.collect()
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        del backend, feed
        gc.collect()
    assert len(descriptors) > 1
    assert [str(one.message) for one in warned] == []
    for descriptor in descriptors:
        with pytest.raises(OSError, match="descriptor"):
            os.fstat(descriptor)


@pytest.mark.parametrize(
    ("more", "login"),
    [
        ("authorization { user: someone, password: 's:cr@t' }", "someone:s%3Acr%40t@"),
        ("authorization { token: hush }", "hush@"),
    ],
)
def test_users(tmp_path: Path, opened: Open, more: str, login: str) -> None:
    """The user and password in the URL are sent."""
    server = Server(tmp_path / "server", more=more).start()
    try:
        backend = opened(queue_on(server.url.replace("//", f"//{login}")))
        assert send(backend)
    finally:
        server.remove()


@pytest.fixture
def certified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """Yield a server that requires TLS, with a trusted certificate."""
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
    """If the server requires TLS, all connections use it, and a task is sent and run."""
    backend = opened(queue_on(certified.url, "&tls=true"))
    first, second = send(backend, Message("task"), Message("task", b"x" * (1 << 20)))
    for id in (first, second):
        end(backend, claim(backend, id))
    assert {type(connection._socket).__name__ for connection in connections(backend)} == {"SSLSocket"}  # noqa: SLF001  the transport
    assert sum(backend.counts().tasks.values()) == 0


def signed(issuer: Any, kind: str, subject: Any, **claims: Any) -> str:
    """Return a JWT of NATS about a subject."""

    def part(data: bytes) -> str:
        return base64.urlsafe_b64encode(data).rstrip(b"=").decode()

    keys = {"iss": issuer.public_key.decode(), "sub": subject.public_key.decode(), "name": kind, "jti": kind, "iat": 1}
    body = keys | {"nats": {"type": kind, "version": 2} | claims}
    text = ".".join(part(json.dumps(one).encode()) for one in ({"typ": "JWT", "alg": "ed25519-nkey"}, body))
    return f"{text}.{part(issuer.sign(text.encode()))}"


def test_credentials(tmp_path: Path, opened: Open) -> None:
    """With a credentials file, the nonce of the server is signed. Other credentials are refused."""
    operator, account, system, user, stranger = (
        nkeys.from_seed(nkeys.encode_seed(os.urandom(32), kind))
        for kind in (
            nkeys.PREFIX_BYTE_OPERATOR,
            nkeys.PREFIX_BYTE_ACCOUNT,
            nkeys.PREFIX_BYTE_ACCOUNT,
            nkeys.PREFIX_BYTE_USER,
            nkeys.PREFIX_BYTE_USER,
        )
    )
    unlimited = dict.fromkeys(("subs", "data", "payload", "imports", "exports", "conn", "leaf"), -1)
    stored = dict.fromkeys(("mem_storage", "disk_storage", "streams", "consumer"), -1)
    accounts = {
        account.public_key.decode(): signed(operator, "account", account, limits=unlimited | stored),
        system.public_key.decode(): signed(operator, "account", system, limits=unlimited),
    }
    more = f"""
        operator: {signed(operator, "operator", operator)}
        system_account: {system.public_key.decode()}
        resolver: MEMORY
        resolver_preload: {{ {", ".join(f"{key}: {jwt}" for key, jwt in accounts.items())} }}
    """
    server = Server(tmp_path / "server", more=more).start()
    try:
        jwt = signed(account, "user", user, pub={}, sub={}, subs=-1, data=-1, payload=-1)
        for name, key in (("good", user), ("bad", stranger)):
            (tmp_path / name).write_text(
                f"-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n"
                f"-----BEGIN USER NKEY SEED-----\n{key.seed.decode()}\n------END USER NKEY SEED------\n"
            )
        backend = opened(queue_on(server.url, f"&credentials={tmp_path}/good"))
        end(backend, claim(backend, send(backend)[0]))
        with pytest.raises(SpoolerUnusable, match="cannot be used: 'Authorization Violation'"):
            send(opened(queue_on(server.url, f"&credentials={tmp_path}/bad"), patience=0.5))
        with pytest.raises(ConfigurationError, match=r"the credentials in .*/none cannot be used"):
            send(opened(queue_on(server.url, f"&credentials={tmp_path}/none")))
    finally:
        server.remove()
