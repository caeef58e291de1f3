"""Errors in servers, streams, URLs and messages. Each message names the cause and the remedy, and no task is lost."""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.nats.conftest import KEY, Open, at, queue_on, until
from tests.nats.server import PAYLOAD, Server
from tests.ports import free_port
from tests.runtime.conftest import PATIENCE, Place
from unspool import address, codec, inspection, registry
from unspool.backends.nats import NatsBackend, runs
from unspool.backends.nats.cluster import Cluster as Where
from unspool.backends.nats.jetstream import JetStream
from unspool.backends.nats.requests import Request
from unspool.backends.nats.runs import Process, Run
from unspool.backends.nats.stored import HEADER, Stored
from unspool.errors import ConfigurationError, OptionRefused, PayloadRefused, SpoolerUnreachable, SpoolerUnusable
from unspool.message import Claim, End, Message, Refusal, RefusalKind, Retry, State
from unspool.settings import Settings
from unspool.testing.exchange import claim_one, sealed, settle_one

APP = """
    @Spooler.task
    def done(): note("done"); return True
"""


def unspool(place: Place, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a command of unspool in a place. Return the ended process."""
    command = [sys.executable, "-m", "unspool", *words]
    return subprocess.run(
        command, cwd=place.root, env=place.env, capture_output=True, text=True, timeout=PATIENCE, check=False
    )


def create(url: str, config: dict[str, Any]) -> None:
    """Create a stream, as an administrator does."""
    stream = Where(address.parse(url)).connect()
    stream.api(f"STREAM.CREATE.{config['name']}", config)
    stream.close()


def test_nobody_there(opened: Open) -> None:
    """Sending to servers that do not run fails within the given time, and the error names them."""
    backend = opened(f"nats://127.0.0.1:{free_port()}?spooler=mail", patience=0.5)
    with pytest.raises(SpoolerUnusable, match=r"NATS at 127\.0\.0\.1:\d+ cannot be reached"):
        backend.send([sealed(codec.encode(Message("task")))])


def test_a_worker_waits_for_the_server(place: Place, tmp_path: Path) -> None:
    """A worker that is started before the server logs that it waits, and runs tasks once the server runs."""
    server = Server(tmp_path / "server")
    at(place, queue_on(server.url))
    place.write_app(APP)
    try:
        running = place.run()
        running.wait_for(lambda line: "trying again" in str(line["message"]))
        server.start()
        place.call("done()")
        running.wait_for_verdict("processed")
        assert running.stop() == 0
    finally:
        server.remove()


def test_require_ready(place: Place) -> None:
    """With --require-ready, a worker ends with status 3 if the server does not run."""
    at(place, f"nats://someone:hush@127.0.0.1:{free_port()}?spooler=mail")
    place.write_app(APP)
    ended = unspool(place, "run", "tasks.py", "--require-ready")
    assert ended.returncode == 3
    assert "cannot be reached" in ended.stderr
    assert "hush" not in ended.stderr + ended.stdout
    assert "Traceback" not in ended.stderr


def test_jetstream_is_off(place: Place, tmp_path: Path) -> None:
    """The error for a server without JetStream says so."""
    server = Server(tmp_path / "server", jetstream=False).start()
    try:
        at(place, queue_on(server.url))
        place.write_app(APP)
        ended = unspool(place, "run", "tasks.py")
        assert ended.returncode == 3
        assert "JetStream is off in" in ended.stderr
        assert "Traceback" not in ended.stderr
    finally:
        server.remove()


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"retention": "limits"}, "retention is 'limits', not 'workqueue'"),
        ({"max_msgs": 100}, "max_msgs is 100, not -1"),
        ({"max_age": 60_000_000_000}, "max_age is 60000000000, not 0"),
        ({"max_msgs_per_subject": 5}, "max_msgs_per_subject is 5, not -1"),
    ],
)
def test_a_stream_that_would_lose_tasks(url: str, opened: Open, change: dict[str, Any], complaint: str) -> None:
    """A stream with other settings is refused. The error names the stream, the setting and the command to change it."""
    spooler = address.parse(url).spooler
    config = {
        "name": f"unspool-tasks-{spooler}",
        "subjects": [f"unspool.{spooler}.{kind}.*.*" for kind in ("now", "soon", "later")],
        "retention": "workqueue",
        "allow_direct": True,
    } | change
    create(url, config)
    with pytest.raises(SpoolerUnusable) as caught:
        inspection.exists(opened(url))
    assert f"stream unspool-tasks-{spooler} has unsuitable settings" in str(caught.value)
    assert complaint in str(caught.value)
    assert "nats stream edit" in str(caught.value)


def test_a_message_beyond_the_servers_limit(backend: NatsBackend) -> None:
    """A task larger than the server's limit is refused before it is sent, with both sizes. Others are sent."""
    with pytest.raises(
        PayloadRefused, match=r"the task has \d+ bytes, and NATS at .* accepts at most \d+ .* raise max_payload"
    ):
        backend.send([sealed(codec.encode(Message("task", b"x" * (9 << 20))))])
    assert sum(backend.counts().tasks.values()) == 0
    backend.send([sealed(codec.encode(Message("task")))])
    assert backend.counts().tasks[State.READY] == 1


def test_a_limit_that_is_lowered(own_server: Server, opened: Open) -> None:
    """If the limit is lowered below the size of a stored task, an error says why the task cannot be written again.

    The end of its run can be stored as soon as the limit is raised.
    """
    backend = opened(queue_on(own_server.url))
    ids = backend.send([sealed(codec.encode(Message("task", b"x" * (2 << 20)))) for _ in range(2)])
    refs = [id.rpartition("/")[2] for id in ids]
    claims = [claim_one(backend, ref) for ref in refs]
    restart(own_server, backend, 1 << 20)
    settled, left = claims
    assert isinstance(settled, Claim)
    assert isinstance(left, Claim)
    end = End(settled, Retry(0.0))
    with pytest.raises(SpoolerUnreachable, match=r"and a message has more: raise max_payload"):
        backend.exchange([end], [])
    dead(backend, left)
    refusal = claim_one(backend, refs[1])
    assert isinstance(refusal, Refusal)
    assert refusal.kind is RefusalKind.UNUSABLE
    assert "raise max_payload" in refusal.detail
    restart(own_server, backend, PAYLOAD)
    assert backend.exchange([end._replace(repeated=True)], []).ended == [0.0]
    for ref in refs:
        claim = claim_one(backend, ref)
        assert isinstance(claim, Claim)
        assert claim.attempts == 2


def restart(server: Server, backend: NatsBackend, payload: int) -> None:
    """Restart the server with another limit for messages."""
    server.kill()
    server.limit(payload)
    server.start()
    until(lambda: backend.cluster.call(lambda stream: stream.open().max_payload) == payload)


def dead(backend: NatsBackend, claim: Claim) -> None:
    """Store what remains of a run whose worker was killed."""
    names, gone = backend.cluster.names, Process(runs.host(), 4_190_000, "1")
    record = Run(claim.ref, 0, 0, 1, gone).dump()
    backend.cluster.call(lambda stream: stream.publish(names.state, names.run(claim.ref), record))


def test_the_largest_that_is_taken_can_also_be_set_aside(backend: NatsBackend) -> None:
    """A task of the largest allowed size can be sent, run and set aside. Its reason fits beside it."""
    from unspool.message import Bury, Claim

    room = 8 * (1 << 20) - 4096
    base = len(codec.encode(Message("task", b"")).body)
    backend.send([sealed(codec.encode(Message("task", b"x" * (room - base - 400))))])
    feed = backend.feed()
    while not (tickets := feed.take(1)):
        feed.refresh()
    claim = claim_one(backend, tickets[0].ref)
    assert isinstance(claim, Claim)
    settle_one(backend, claim, Bury("ü" * 5000))
    feed.close()
    (entry,) = inspection.tasks(backend)
    assert entry.state is State.DEAD
    assert entry.reason.startswith("ü" * 100)


def test_pickle_needs_a_key(url: str) -> None:
    """Without a key, a pickled payload is refused and the error names both remedies. JSON is accepted."""
    backend = NatsBackend(address.parse(url), Settings())
    with pytest.raises(PayloadRefused, match=r'set UNSPOOL_SECRET_KEY .* or give the task serializer="json"'):
        registry.seal(backend).close(codec.encode(Message("task", {"a": 1})))
    backend.send([registry.seal(backend).close(codec.encode(Message("task", {"a": 1}, serializer="json")))])
    assert backend.counts().tasks[State.READY] == 1
    backend.close()


def test_what_anybody_may_publish(served: Place, backend: NatsBackend) -> None:
    """Invalid messages become corrupt with a reason, whatever their subjects and headers. Other tasks run."""
    names = backend.cluster.names
    too_long = "x" * 200

    def publish(stream: JetStream) -> None:
        for subject, header in [
            (names.task("now", "none", "junk"), "no json"),
            (names.task("now", "5", "junk5"), '{"due": "NaN", "attempts": -1, "crashes": 1e400}'),
            (names.task("now", "none", too_long), ""),
            (names.task("soon", "none", "long"), json.dumps({"due": 0, "attempts": 10**30, "crashes": 0})),
        ]:
            backend.cluster.ensure_rank(stream, subject.split(".")[3])
            stream.publish(names.tasks, subject, b"\x80junk", {HEADER: header})

    backend.cluster.call(publish)
    served.write_app(APP)
    served.call("done()")
    running = served.run()
    running.wait_for_verdict("processed")
    until(lambda: backend.counts().tasks[State.CORRUPT] == 4)
    assert running.stop() == 0
    reasons = [entry.reason for entry in inspection.tasks(backend, frozenset({State.CORRUPT}))]
    assert all(reasons)
    assert sum("names no task" in reason for reason in reasons) == 1


def test_a_reason_that_anybody_may_publish() -> None:
    """A reason in a header is made printable, so that every backend can store it after a transfer."""
    header = json.dumps({"due": 1, "attempts": 1, "crashes": 0, "reason": "a\0b \ud83d \x1b[31m"})
    assert Stored("subject", 1, 0.0, header, b"").facts.reason == "a\\x00b \\ud83d \\x1b[31m"
    assert Stored("subject", 1, 5.0, "[" * 100_000, b"").facts.due == 5.0


def test_a_message_without_our_header_runs(served: Place, backend: NatsBackend) -> None:
    """A message with a signed task and without unspool's headers is run, so other programs can send tasks."""
    from unspool import wire
    from unspool.signing import Signer

    names = backend.cluster.names
    spooler = names.root.rpartition(".")[2]
    body = json.dumps({"payload": {"func": "tasks:done", "arg": [], "kwg": {}}}).encode()
    vars = {"msg": b"ucfg_fcall", "unspool_task": b"tasks:done", "unspool_codec": b"json"}
    data = wire.dump(vars, body, Signer([KEY], spooler))

    def publish(stream: JetStream) -> None:
        backend.cluster.ensure_rank(stream, "none")
        stream.ask(Request(names.task("now", "none", "mine"), data))

    backend.cluster.call(publish)
    served.write_app(APP)
    running = served.run()
    running.wait_for_verdict("processed")
    assert running.stop() == 0
    assert served.lines() == ["done"]


def test_credentials_are_never_shown(place: Place) -> None:
    """No output contains the password or token of a URL. All commands run at once, because each waits for seconds."""
    urls = ("nats://someone:hush@127.0.0.1:1?spooler=m", "nats://hush@127.0.0.1:1?spooler=m")
    running = [
        subprocess.Popen(
            [sys.executable, "-m", "unspool", *words], cwd=place.root, env=at(place, url).env,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for url in urls
        for words in (("doctor",), ("show", "nats://127.0.0.1:1/m/abc"))
    ]  # fmt: skip
    for process in running:
        said, _ = process.communicate(timeout=PATIENCE)
        assert process.returncode != 0
        assert "127.0.0.1:1" in said
        assert "hush" not in said
        assert "Traceback" not in said


def test_wrong_password(place: Place, tmp_path: Path) -> None:
    """A wrong password and an unreachable server have different errors. The right password is accepted."""
    users = "authorization { user: someone, password: 's:cr@t' }"
    server = Server(tmp_path / "server", more=users).start()
    try:
        host = f"127.0.0.1:{server.port}"
        at(place, f"nats://someone:wrong@{host}?spooler=mail")
        ended = unspool(place, "status")
        assert ended.returncode == 3
        assert "authorization" in ended.stderr.lower()
        assert "wrong" not in ended.stderr
        at(place, f"nats://someone:s%3Acr%40t@{host}?spooler=mail")
        assert unspool(place, "status").returncode == 0
    finally:
        server.remove()


@pytest.mark.parametrize(
    ("parameters", "complaint"),
    [
        ("&colour=red", "unknown parameter 'colour' in nats://a/mail; valid parameters: replicas, lease"),
        ("&replicas=9", "replicas of nats://a/mail is '9'; it must be a number from 0 to 5"),
        ("&lease=soon", "lease of nats://a/mail is 'soon'"),
    ],
)
def test_wrong_parameters(parameters: str, complaint: str) -> None:
    """An unknown parameter or invalid value in the URL is refused, and the error names the valid ones."""
    with pytest.raises(OptionRefused) as caught:
        Where(address.parse(f"nats://a?spooler=mail{parameters}"))
    assert complaint in str(caught.value)


def test_two_users_in_one_url() -> None:
    """Different users for the servers of one URL are refused, without naming their passwords."""
    with pytest.raises(OptionRefused, match="have different users") as caught:
        Where(address.parse("nats://a:secret1@h1,b:secret2@h2?spooler=mail"))
    assert "secret" not in str(caught.value)


def test_a_stream_deleted_in_mid_run(served: Place, backend: NatsBackend) -> None:
    """A deleted stream is created again by the next use, and the worker continues."""
    served.write_app(APP)
    served.call("done()")
    running = served.run()
    running.wait_for_verdict("processed")
    backend.cluster.call(lambda stream: stream.api(f"STREAM.DELETE.{backend.cluster.names.tasks}"))
    end = time.monotonic() + PATIENCE
    while True:
        try:
            served.call("done()")
            break
        except subprocess.CalledProcessError:
            assert time.monotonic() < end
    running.wait_for_verdict("processed")
    assert running.stop() == 0


def test_config_refuses_bad_names() -> None:
    """A spooler whose name cannot be part of a subject is refused."""
    from unspool.backends.nats.names import Names

    for name in ("", "a.b", "a b", "*", ">", "x" * 65):
        with pytest.raises(ConfigurationError):
            Names(name)


def test_a_message_that_is_too_large(url: str) -> None:
    """A worker sets aside a task larger than max_task_size, and the reason names the setting."""
    backend = NatsBackend(address.parse(url), Settings(max_task_size=1))
    small, large = backend.send([sealed(codec.encode(Message("task", "x" * size))) for size in (1 << 20, 1 << 21)])
    assert isinstance(claim_one(backend, small.rpartition("/")[2]), Claim)
    refusal = claim_one(backend, large.rpartition("/")[2])
    assert isinstance(refusal, Refusal)
    assert refusal.kind is RefusalKind.CORRUPT
    entry = inspection.find(backend, large)
    assert entry is not None
    assert entry.state is State.CORRUPT
    assert "max_task_size allows 1048576; raise UNSPOOL_MAX_TASK_SIZE" in entry.reason
    backend.close()
