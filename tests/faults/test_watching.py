"""The kernel has no watches left, or loses events: scans find all tasks."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import inotify_simple
import pytest

from unspool.backends.spool import SpoolBackend, feed, watcher
from unspool.message import Content
from unspool.testing.exchange import sealed

from .conftest import needs


def send(backend: SpoolBackend, many: int = 1) -> list[str]:
    """Send some tasks."""
    return backend.send([sealed(Content({"msg": b"task"}, b"", None, None))] * many)


def taken(found: feed.SpoolFeed) -> set[str]:
    """Return all tickets after a refresh."""
    while found.refresh().more:
        pass
    return {ticket.ref for ticket in found.take(100_000)}


_POLLING = """
import logging, time
from unspool.backends.spool import SpoolBackend
from unspool.message import Content
from unspool.testing.exchange import sealed
logging.basicConfig(format="LOG %(message)s")
backend = SpoolBackend({place!r}, durable=False)
backend.send([sealed(Content({{'msg': b'first'}}, b'', None, None))])
feed = backend.feed()
def taken():
    while feed.refresh().more: pass
    return len(feed.take(9))
assert taken() == 1
backend.send([sealed(Content({{'msg': b'prior'}}, b'', 1, None))])
while not taken():  # with a watch of the root told at once, and else found by a look
    time.sleep(max(0.0, feed.refresh().next_due - time.time()))
print(feed.fileno(), feed.refresh().next_due - time.time() <= 1)
backend.send([sealed(Content({{'msg': b'last'}}, b'', None, None))])
while not taken():
    time.sleep(max(0.0, feed.refresh().next_due - time.time()))
print("last")
"""


@pytest.mark.parametrize(
    "limit",
    [
        pytest.param("max_inotify_instances 0", id="nothing"),
        pytest.param("max_inotify_watches 0", id="the root"),
        pytest.param("max_inotify_watches 1", id="the private directory"),
        pytest.param("max_inotify_watches 2", id="the switches"),
        pytest.param("max_inotify_watches 3", id="a new priority"),
    ],
)
def test_no_watches_left(tmp_path: Path, limit: str) -> None:
    """Whichever watch the kernel refuses at any time, one line says so, and the directory is then scanned once a
    second.

    The limit belongs to a user namespace of the test.
    """
    needs(root=True, tool="unshare")
    name, number = limit.split()
    command = f'echo {number} > /proc/sys/user/{name}; exec {sys.executable} -c "$CODE"'
    environment = os.environ | {"CODE": _POLLING.format(place=str(tmp_path / "mail"))}
    found = subprocess.run(
        ["unshare", "--user", "--map-root-user", "sh", "-c", command],
        capture_output=True, text=True, env=environment, check=False, timeout=60,
    )  # fmt: skip
    if "ermission denied" in found.stderr or "not permitted" in found.stderr:
        pytest.skip(f"no user namespaces here: {found.stderr.strip()}")
    assert found.stdout.split() == ["None", "True", "last"], found.stderr
    assert found.stderr.count("LOG") == found.stderr.count("once a second instead") == 1, found.stderr


def test_too_many_events(tmp_path: Path) -> None:
    """More names arrive than the kernel keeps events for: the overflow causes a scan, which finds all of them."""
    limit = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    if limit > 50_000:
        pytest.skip(f"this system keeps {limit} events")
    clock = [1_000.0]
    backend = SpoolBackend(str(tmp_path / "mail"), durable=False, clock=lambda: clock[0])
    found = backend.feed()
    assert taken(found) == set()
    (id,) = send(backend)
    for number in range(limit + 100):  # events that have no end: each changes its name
        os.rename(id, other := f"{backend.name}/uwsgi_spoolfile_on_{number}")
        id = other
    sent = {os.path.basename(one) for one in [id, *send(backend, 200)]}
    while found.refresh().more:
        pass
    clock[0] += 1.0  # after an overflow, the scan waits for a second
    assert taken(found) >= sent
    found.close()


def test_a_watch_that_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ENOSPC for one directory ends all watching, because half of the events would be worse than none."""
    seen = watcher.Watcher()
    assert seen.working

    def refuse(*_: object) -> int:
        raise OSError(errno.ENOSPC, "no watches left")

    monkeypatch.setattr(inotify_simple.INotify, "add_watch", refuse)
    seen.watch("", str(tmp_path))
    assert not seen.working
    assert seen.fileno() is None
    assert seen.changes() == []
