"""The kernel has no watches left, or too many events: scans find what is there."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from unspool.backends.spool import SpoolBackend, feed, wake
from unspool.message import Envelope

from .conftest import needs


def send(backend: SpoolBackend, many: int = 1) -> list[str]:
    """Some tasks."""
    return backend.send([Envelope({"msg": b"task"}, b"", None, None)] * many)


def taken(found: feed.SpoolFeed) -> set[str]:
    """All that it gives after a look."""
    while found.refresh():
        pass
    return {ticket.ref for ticket in found.take(100_000)}


def test_no_watches_left(tmp_path: Path) -> None:
    """A user without inotify watches polls once a second, and so finds what comes. The limit is one of a user
    namespace of the test's own."""
    needs(root=True, tool="unshare")
    code = (
        "import time\\n"
        "from unspool.backends.spool import SpoolBackend\\n"
        "from unspool.message import Envelope\\n"
        f"backend = SpoolBackend({str(tmp_path / 'mail')!r})\\n"
        "feed = backend.feed()\\n"
        "while feed.refresh(): pass\\n"
        "print(feed.fileno(), feed.next_due() - time.time() <= 1)\\n"
        "backend.send([Envelope({'msg': b'task'}, b'', None, None)])\\n"
        "while not (taken := feed.take(9)):\\n"
        "    time.sleep(max(0.0, feed.next_due() - time.time()))\\n"
        "    while feed.refresh(): pass\\n"
        "print(len(taken))\\n"
    ).replace("\\n", "\n")
    command = f'echo 0 > /proc/sys/user/max_inotify_instances; exec {sys.executable} -c "$CODE"'
    environment = os.environ | {"CODE": code}
    found = subprocess.run(
        ["unshare", "--user", "--map-root-user", "sh", "-c", command],
        capture_output=True, text=True, env=environment, check=False,
    )  # fmt: skip
    if "ermission denied" in found.stderr or "not permitted" in found.stderr:
        pytest.skip(f"no user namespaces here: {found.stderr.strip()}")
    assert found.stdout.split() == ["None", "True", "1"], found.stderr


def test_too_many_events(tmp_path: Path) -> None:
    """More names arrive than the kernel keeps events for: the overflow asks for a scan, which has all of them."""
    limit = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    if limit > 50_000:
        pytest.skip(f"this system keeps {limit} events")
    clock = [1_000.0]
    backend = SpoolBackend(str(tmp_path / "mail"), durable=False, clock=lambda: clock[0])
    found = feed.SpoolFeed(backend._directory, backend.control, lambda: clock[0], backend.bell)
    assert taken(found) == set()
    (id,) = send(backend)
    for number in range(limit + 100):  # events that have no end: each changes its name
        os.rename(id, other := f"{backend.name}/uwsgi_spoolfile_on_{number}")
        id = other
    sent = {os.path.basename(one) for one in [id, *send(backend, 200)]}
    while found.refresh():
        pass
    clock[0] += 1.0  # the look after an overflow waits until whoever is busy there has settled
    assert taken(found) >= sent
    found.close()


def test_a_watch_that_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ENOSPC for one directory ends all watching: half of the events would be worse than none."""
    seen = wake.Wake()
    assert seen.working

    class Full:
        def add_watch(self, *_: object) -> int:
            raise OSError(errno.ENOSPC, "no watches left")

        def close(self) -> None:
            pass

    seen._notify.close()  # type: ignore[union-attr]
    seen._notify = Full()  # type: ignore[assignment]
    seen.watch("", str(tmp_path))
    assert not seen.working
    assert seen.fileno() is None
    assert seen.changes() == []
