"""The key-value table on a real server: servers that are killed or full, other hosts, and foreign messages."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.nats.conftest import Open, queue_on, until
from tests.nats.server import Server
from tests.runtime.conftest import PATIENCE
from unspool import codec, inspection
from unspool.backends.keyvalue import EPHEMERAL, LARGEST_VALUE, Item, Life, Until
from unspool.backends.nats import NatsBackend, keyvalue, runs
from unspool.backends.nats.item import Header
from unspool.backends.nats.jetstream import JetStream
from unspool.backends.nats.requests import Request
from unspool.backends.nats.runs import Process
from unspool.backends.nats.stored import HEADER
from unspool.errors import OptionRefused, SpoolerUnusable
from unspool.message import Message
from unspool.testing.clock import FakeClock
from unspool.testing.exchange import sealed

FOR_LONG = 10.0**6


def restart(server: Server, backend: NatsBackend) -> None:
    """Kill a server, start it, and return when the backend is connected again."""
    server.kill()
    server.start()
    until(lambda: backend.cluster.call(lambda stream: not stream.open().closed))


def messages(backend: NatsBackend) -> int:
    """Return the number of messages in the stream of the table."""
    info = backend.cluster.call(lambda stream: stream.info(backend.cluster.names.table))
    return int(info["state"]["messages"]) if info else 0


def publish(backend: NatsBackend, subject: str, data: bytes, headers: dict[str, str] | None = None) -> None:
    """Publish a message as any program may."""
    backend.cluster.call(lambda stream: stream.publish(backend.cluster.names.table, subject, data, headers))


Lose = Callable[[str, Callable[[str], object]], list[bool]]


@pytest.fixture
def lose(monkeypatch: pytest.MonkeyPatch) -> Lose:
    """Lose the connection with the next change of the table when the first item of the returned list is set to True.

    :param lost: ``request`` or ``answer``.
    :param during: called with the subject before the request is repeated.
    """

    def lose(lost: str, during: Callable[[str], object]) -> list[bool]:
        ask, losing = JetStream._ask_some, [False]  # noqa: SLF001  to lose an answer

        def ask_some(
            self: JetStream, requests: Sequence[Request], some: Sequence[int], found: Any, written: set[int], end: float
        ) -> None:
            subject = requests[some[0]].subject
            if ".kv." not in subject or not losing[0]:
                ask(self, requests, some, found, written, end)
                return
            losing[0] = False
            if lost == "answer":
                ask(self, requests, some, found, written, end)
                found[some[0]] = None
            written.update(some)
            during(subject)
            self.close()
            raise ConnectionResetError("the answer is lost")

        monkeypatch.setattr(JetStream, "_ask_some", ask_some)
        return losing

    return lose


@pytest.fixture
def no_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a wait end only if it is woken."""
    monkeypatch.setattr(keyvalue, "_ROUND", 10 * PATIENCE)


# --- servers that are killed


@pytest.mark.parametrize("seconds", [None, FOR_LONG, 0.0])
def test_former_values_stay_away(own_server: Server, opened: Open, seconds: float | None) -> None:
    """No value that was replaced, dropped or has expired returns when a server is killed, and a put or drop on an
    outdated version fails then. Versions grow."""
    clock = FakeClock()
    backend = opened(queue_on(own_server.url), clock=clock)  # type: ignore[arg-type]
    kv, kept, outdated = backend.kv, dict[str, int | None](), dict[str, list[int | None]]()
    for number in range(20):
        kept[f"kept/{number}"] = kv.put(f"kept/{number}", b"x" * 1000)  # so that no part of the file is removed
        key = f"key/{number}"
        life: list[Life] = [] if seconds is None else [Until(clock() + seconds)]
        outdated[key] = [kv.put(key, b"first", life=one) for one in (*life, *life)] or [kv.put(key, b"first")]
        outdated[key].append(kv.put(key, b"second"))
        if number % 2:
            kv.drop(key)
    restart(own_server, backend)
    assert [(key, item.version) for key, item in kv.scan("kept")] == sorted(kept.items())
    for number, (key, versions) in enumerate(outdated.items()):
        (item,) = kv.get([key])
        assert item == (None if number % 2 else Item(b"second", versions[-1] or 0))
        for version in versions if number % 2 else versions[:-1]:
            assert kv.put(key, b"outdated", expect=version) is None
            assert not kv.drop(key, expect=version)
        assert (kv.put(key, b"third") or 0) > max(version or 0 for version in kept.values())


def test_items_that_the_server_deletes(own_server: Server, opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server deletes items after their end, and what was dropped with them. Nothing of them returns when it is
    killed, also if the block of the file is kept. A later version is greater."""
    monkeypatch.setattr(keyvalue, "_MARGIN", 1)
    clock = FakeClock()
    backend = opened(queue_on(own_server.url), clock=clock)  # type: ignore[arg-type]
    kv = backend.kv
    kv.put("kept", b"x" * 1000)
    for number in range(10):
        kv.put(f"dropped/{number}", b"")
        kv.put(f"dropped/{number}", b"", life=Until(clock()))
        kv.drop(f"dropped/{number}")
    versions = []
    for number in range(10):
        kv.put(f"{number}", b"one", life=Until(clock() + 1))
        versions.append(kv.put(f"{number}", b"two", life=Until(clock())))
        if number % 2:
            kv.drop(f"{number}")
    until(lambda: messages(backend) == 11)
    clock.advance(2)
    restart(own_server, backend)
    assert [key for key, _ in kv.scan("")] == ["kept"]
    until(lambda: messages(backend) == 11)
    assert [key for key, _ in kv.scan("")] == ["kept"]
    for number, version in enumerate(versions):
        assert version
        assert (kv.put(f"{number}", b"three", expect=0) or 0) > version


def test_a_dropped_value_outlives_no_message_that_states_the_drop(backend: NatsBackend) -> None:
    """The server keeps the message of a drop, or of a shorter item, as long as it would have kept the former item."""
    kv, names = backend.kv, backend.cluster.names

    def ttl(key: str) -> int:
        stored = backend.cluster.call(lambda stream: stream.last(names.table, names.item(key)))
        assert stored
        return Header.of(stored.header).ttl

    now = time.time()
    kv.put("long", b"", life=Until(now + 1000))
    kv.put("long", b"", life=Until(now + 10))
    kv.drop("long")
    assert ttl("long") >= 1000
    kv.put("forever", b"")
    kv.put("forever", b"", life=Until(now + 10))
    assert ttl("forever") == 0
    kv.drop("forever")
    assert ttl("forever") == 0


@pytest.mark.parametrize("lost", ["request", "answer"])
def test_a_server_that_is_killed_during_a_change(own_server: Server, opened: Open, lose: Lose, lost: str) -> None:
    """A put or drop whose request or answer is lost with the server is made once, and returns what it did."""

    def restart(_: str) -> None:
        own_server.kill()
        own_server.start()

    deadly = lose(lost, restart)
    backend = opened(queue_on(own_server.url))
    kv = backend.kv
    version = kv.put("key", b"one", expect=0)
    for expect in (version, None):
        deadly[0] = True
        version = kv.put("key", b"two", expect=expect)
        assert version
        assert kv.get(["key"]) == [Item(b"two", version)]
    deadly[0] = True
    assert kv.put("other", b"", expect=0)
    deadly[0] = True
    assert kv.drop("key", expect=version)
    assert kv.get(["key"]) == [None]


def test_counting_while_a_server_is_killed(own_server: Server, opened: Open) -> None:
    """Threads increment a counter by compare-and-set while the server is killed, again and again. No step is lost, and
    none is made twice: a step whose result is unknown is reported."""
    url = queue_on(own_server.url)
    backends = [opened(url) for _ in range(3)]
    made, errors, ended = [0] * 3, list[str](), threading.Event()

    def count(number: int) -> None:
        kv = backends[number].kv
        while not ended.is_set():
            (item,) = kv.get(["counter"])
            value = b"%d" % (int(item.value) + 1 if item else 1)
            try:
                made[number] += kv.put("counter", value, expect=item.version if item else 0) is not None
            except SpoolerUnusable as error:
                errors.append(str(error))

    threads = [threading.Thread(target=count, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for _ in range(2):
        before = list(made)
        until(lambda before=before: all(now > then + 5 for now, then in zip(made, before, strict=True)))  # type: ignore[misc]
        own_server.kill()
        own_server.start()
    ended.set()
    for thread in threads:
        thread.join(PATIENCE)
        assert not thread.is_alive()
    (item,) = backends[0].kv.get(["counter"])
    assert item
    assert sum(made) <= int(item.value) <= sum(made) + len(errors)
    assert not [error for error in errors if "is unknown" not in error]


@pytest.mark.parametrize("change", ["put", "drop"])
def test_a_change_whose_result_is_unknown(backend: NatsBackend, opened: Open, lose: Lose, change: str) -> None:
    """If the answer is lost and another process has changed the key since, the error says that the result is
    unknown."""
    other = opened(backend.name)
    version = backend.kv.put("key", b"old")
    assert version
    lose("answer", lambda _: other.kv.put("key", b"other"))[0] = True
    kv = backend.kv
    use = (lambda: kv.put("key", b"new", expect=version)) if change == "put" else lambda: kv.drop("key", expect=version)
    with pytest.raises(SpoolerUnusable, match=r"the key 'key' was changed, .* is unknown"):
        use()
    assert [item and item.value for item in other.kv.get(["key"])] == [b"other"]


def test_an_answer_that_is_lost(backend: NatsBackend, lose: Lose) -> None:
    """A change whose answer is lost with the connection is not made a second time, and returns what it did."""
    kv, lost = backend.kv, lose("answer", lambda _: None)
    assert kv.put("key", b"", expect=0)
    for expect in (0, None):
        lost[0] = True
        version = kv.put(f"{expect}", b"x", expect=expect)
        assert not lost[0]
        assert version
        assert kv.get([f"{expect}"]) == [Item(b"x", version)]
    (item,) = kv.get(["key"])
    assert item
    lost[0] = True
    assert kv.put("key", b"y", expect=item.version)
    lost[0] = True
    assert kv.drop("key")
    assert kv.get(["key"]) == [None]


def woken(backend: NatsBackend, versions: dict[str, int], during: Callable[[], object]) -> bool:
    """Wait in another thread for a change that ``during`` makes once the thread waits. Return what the wait returns."""
    results: list[bool] = []
    thread = threading.Thread(target=lambda: results.append(backend.kv.wait(versions, PATIENCE)))
    thread.start()
    until(lambda: watches(backend) > 0)
    during()
    thread.join(2 * PATIENCE)
    assert not thread.is_alive()
    return results == [True]


def watches(backend: NatsBackend) -> int:
    """Return how many waits the server knows."""
    return len(backend.cluster.call(lambda stream: stream.consumers(backend.cluster.names.table)))


@pytest.mark.usefixtures("no_rounds")
def test_a_server_that_is_restarted_during_a_wait(own_server: Server, opened: Open) -> None:
    """A wait goes on when the server is killed and started, and a later change wakes it at once. The server keeps no
    watch afterwards."""
    waiting, other = (opened(url) for url in [queue_on(own_server.url)] * 2)
    version = other.kv.put("key", b"")
    assert version

    def change() -> None:
        restart(own_server, other)
        until(lambda: watches(other) > 0)
        other.kv.drop("key")

    assert woken(waiting, {"key": version}, change)
    until(lambda: watches(other) == 0)


def test_a_server_that_stays_away(own_server: Server, opened: Open) -> None:
    """Each method says that the servers cannot be reached. A wait that has begun says so too."""
    backend = opened(queue_on(own_server.url), patience=0.5)
    version = backend.kv.put("key", b"")
    assert version
    errors: list[BaseException] = []

    def wait() -> None:
        try:
            backend.kv.wait({"key": version}, PATIENCE)
        except SpoolerUnusable as error:
            errors.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    until(lambda: watches(backend) > 0)
    own_server.stop()
    thread.join(PATIENCE)
    assert "NATS at" in str(errors[0])
    kv = backend.kv
    uses: list[Callable[[], object]] = [
        lambda: kv.get(["key"]),
        lambda: kv.get(["key", "other"]),
        lambda: kv.put("key", b""),
        lambda: kv.drop("key"),
        lambda: kv.scan(""),
        lambda: kv.wait({"key": 1}, 0),
    ]
    for use in uses:
        with pytest.raises(SpoolerUnusable, match="cannot be reached"):
            use()


# --- lives


@pytest.mark.usefixtures("no_rounds")
def test_the_death_of_a_process_wakes_a_wait(backend: NatsBackend) -> None:
    """A wait ends at once when the process of an ephemeral item of this host is killed."""
    pid = os.fork()
    if pid == 0:
        try:
            backend.kv.put("key", b"", life=EPHEMERAL)
            signal.pause()
        finally:
            os.kill(os.getpid(), signal.SIGKILL)
    until(lambda: backend.kv.get(["key"]) != [None])
    (item,) = backend.kv.get(["key"])
    assert item

    def kill() -> None:
        os.kill(pid, signal.SIGKILL)

    assert woken(backend, {"key": item.version}, kill)
    os.waitpid(pid, 0)
    assert backend.kv.get(["key"]) == [None]


@pytest.mark.usefixtures("no_rounds")
def test_the_end_of_an_item_wakes_a_wait(backend: NatsBackend) -> None:
    """A wait ends when the time of an item has come."""
    backend.kv.put("any", b"")
    end = time.time() + 2
    version = backend.kv.put("key", b"", life=Until(end))
    assert version
    assert backend.kv.wait({"key": version}, 2 * PATIENCE)
    assert end <= time.time() < end + PATIENCE


def test_a_process_of_another_host(backend: NatsBackend) -> None:
    """An ephemeral item of another host is present while its process reports. When the process does not, the item is
    dropped, so that it does not return if the process reports again."""
    names, kv = backend.cluster.names, backend.kv
    kv.put("any", b"")
    process = Process("elsewhere", 1, "1")

    def report() -> int:
        live = {"Nats-TTL": "60s"}
        return backend.cluster.call(lambda stream: stream.publish(names.state, names.live(process.key), b"{}", live))

    entry = report()
    headers = Header(process=process).dump()
    publish(backend, names.item("a"), b"a", headers)
    publish(backend, names.item("b"), b"b", headers)
    (item,) = kv.get(["a"])
    assert item
    assert [key for key, _ in kv.scan("")] == ["a", "any", "b"]
    assert not kv.wait({"a": item.version}, 0.05)
    assert backend.cluster.call(lambda stream: stream.delete(names.state, entry))
    assert kv.get(["a"]) == [None]
    assert [key for key, _ in kv.scan("")] == ["any"]
    report()
    assert kv.get(["a", "b"]) == [None, None]
    assert kv.put("a", b"", expect=item.version) is None


PUTS = """
import sys, time
from unspool import address
from unspool.backends.keyvalue import EPHEMERAL
from unspool.backends.nats import NatsBackend
from unspool.settings import Settings
NatsBackend(address.parse(sys.argv[1]), Settings()).kv.put("key", b"there", life=EPHEMERAL)
time.sleep(1000)
"""


def test_another_host(url: str, backend: NatsBackend) -> None:
    """The item of a process on another host, in a pid namespace of its own, outlasts the lease while the process lives.
    It ends within leases when the process is killed, and a wait notices this."""
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("a namespace of its own needs root and unshare")
    command = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child", sys.executable, "-c", PUTS, url]
    process = subprocess.Popen(command)
    try:
        until(lambda: backend.kv.get(["key"]) != [None])
        (item,) = backend.kv.get(["key"])
        assert item
        assert not backend.kv.wait({"key": item.version}, 1.5 * backend.cluster.lease)
    finally:
        process.kill()
        process.wait(PATIENCE)
    assert backend.kv.wait({"key": item.version}, PATIENCE)
    assert backend.kv.get(["key"]) == [None]


def test_an_ephemeral_item_is_announced(backend: NatsBackend) -> None:
    """A process that puts an ephemeral item reports to other hosts before, and is not listed as a worker."""
    names = backend.cluster.names
    backend.kv.put("key", b"", life=EPHEMERAL)
    live = names.live(runs.me().key)
    assert backend.cluster.call(lambda stream: stream.last(names.state, live)) is not None
    assert backend.live() == []


def test_close_ends_what_is_left(backend: NatsBackend) -> None:
    """``close`` drops the ephemeral items that still exist, and sends no request for others."""
    kv = backend.kv
    for key in ("dropped", "replaced", "left"):
        kv.put(key, b"", life=EPHEMERAL)
        kv.put(key, b"again", life=EPHEMERAL)
    kv.drop("dropped")
    kv.put("replaced", b"")
    assert list(kv._ephemeral) == ["left"]  # noqa: SLF001  no process notices a name that is kept too long
    backend.close()
    assert [key for key, _ in kv.scan("")] == ["replaced"]


# --- storage


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Server]:
    """Yield a server that stores little, and takes messages of the default size."""
    server = Server(tmp_path / "server", storage="4MB", payload=1 << 20).start()
    yield server
    server.remove()


def test_full_storage(small: Server, opened: Open) -> None:
    """A put says that the storage is full, and changes nothing. Items can still be dropped, which makes room."""
    backend = opened(queue_on(small.url))
    kv = backend.kv
    version, value = kv.put("key", b"x" * 500_000), b"x" * 200_000
    with pytest.raises(SpoolerUnusable, match="the storage is full"):
        backend.send([sealed(codec.encode(Message("task", "x" * 20_000))) for _ in range(1000)])
    with pytest.raises(SpoolerUnusable, match="the storage is full"):
        kv.put("key", value)
    assert [item and item.version for item in kv.get(["key"])] == [version]
    assert kv.drop("key")
    assert kv.put("key", value)


def test_a_value_larger_than_a_message(small: Server, opened: Open) -> None:
    """A value that the servers do not take is refused with both sizes."""
    kv = opened(queue_on(small.url)).kv
    with pytest.raises(OptionRefused, match=r"1048576 bytes is too large: NATS at .* at most 1044480 .*max_payload"):
        kv.put("key", b"x" * LARGEST_VALUE)
    assert kv.put("key", b"x" * 1_044_480)


def test_a_table_that_is_not_used(backend: NatsBackend) -> None:
    """The stream is created by the first put. Reading an unused table creates nothing."""
    inspection.exists(backend)
    assert backend.kv.get(["key"]) == [None]
    assert backend.kv.get(["key", "other"]) == [None, None]
    assert backend.kv.scan("") == []
    assert not backend.kv.drop("key")
    assert not backend.kv.wait({"key": 0}, 0)
    assert backend.cluster.call(lambda stream: stream.info(backend.cluster.names.table)) is None


def test_a_stream_that_is_deleted(url: str, opened: Open) -> None:
    """A put after the stream was deleted fails once, and the next one creates it again."""
    backend = opened(url, patience=0.5)
    assert backend.kv.put("key", b"")
    backend.cluster.call(lambda stream: stream.api(f"STREAM.DELETE.{backend.cluster.names.table}"))
    assert backend.kv.get(["key"]) == [None]
    with pytest.raises(SpoolerUnusable):
        backend.kv.put("key", b"")
    assert backend.kv.put("key", b"")


def test_a_stream_with_other_settings(backend: NatsBackend) -> None:
    """A stream whose settings would lose items is refused, and the error names the settings."""
    inspection.exists(backend)
    config = {
        "name": backend.cluster.names.table,
        "subjects": [f"{backend.cluster.names.root}.kv.>"],
        "max_age": 10**12,
    }
    backend.cluster.call(lambda stream: stream.api(f"STREAM.CREATE.{backend.cluster.names.table}", config))
    with pytest.raises(SpoolerUnusable, match=r"unsuitable settings: .*max_msgs_per_subject.*max_age"):
        backend.kv.put("key", b"")


# --- foreign messages


@pytest.mark.parametrize(
    "header",
    ["", "x", "[]", "[" * 3000, '{"until": "x"}', '{"until": 1e999, "ttl": -1}', '{"process": 5}', '{"ttl": 1e999}'],
)
def test_foreign_headers(backend: NatsBackend, header: str) -> None:
    """A message that another program has published under a key is its item, whatever its header contains."""
    backend.kv.put("any", b"")
    publish(backend, backend.cluster.names.item("key"), b"value", {HEADER: header} if header else None)
    (item,) = backend.kv.get(["key"])
    assert item
    assert item.value == b"value"
    assert backend.kv.put("key", b"new", expect=item.version)


def test_foreign_subjects(url: str, opened: Open) -> None:
    """Messages under subjects that are no keys are not listed."""
    backend = opened(url, patience=0.5)
    kv, root = backend.kv, backend.cluster.names.root
    kv.put("a/b", b"")
    for name in ("a/b", "a..b", "ä", "x" * 201, "a!", "a.b~c"):
        try:
            publish(backend, f"{root}.kv.{name}", b"")
        except SpoolerUnusable:
            assert name == "a..b"  # the server refuses it
    assert [key for key, _ in kv.scan("")] == ["a/b", "a/b.c"]
