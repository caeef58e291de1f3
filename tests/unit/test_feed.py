"""The due tasks of a real directory, which the kernel reports, and which scans find otherwise.

The clock stands still unless a test moves it, and scans are minutes apart. So what is found without moving the clock
was reported by the kernel.
"""

import contextlib
import errno
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import inotify_simple
import pytest

from unspool import codec, wire
from unspool.backends.base import Feed, FeedState
from unspool.backends.spool import SpoolBackend, lock
from unspool.message import Ack, Claim, Message, Refusal
from unspool.testing import FakeClock
from unspool.testing.exchange import claim_one, content_of, sealed, settle_one
from unspool.testing.waiting import readable

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the kernel tells of changes on Linux")

PERIOD = 300.0
TICK = 1 / 1024
PREFIX = "uwsgi_spoolfile_on_elsewhere_1_1_1_"


Make = Callable[..., "Watched"]


class Watched:
    """A spool directory with a feed that was refreshed once, and another program that uses it."""

    def __init__(self, root: Path, clock: FakeClock) -> None:
        self.root = root
        self.clock = clock
        self.backend = SpoolBackend(str(root), durable=False, period=PERIOD, clock=self.clock)
        self.other = SpoolBackend(str(root), durable=False, period=PERIOD, clock=self.clock)
        self.other.switch(paused=False)
        self.other.switch(period=PERIOD)
        self.feed: Feed = self.backend.feed()
        self.refresh()

    def refresh(self) -> FeedState:
        """Process all changes, and return the state of the feed."""
        while (state := self.feed.refresh()).more:
            pass
        return state

    @property
    def told(self) -> bool:
        """Return whether the kernel reports a change."""
        fd = self.feed.fileno()
        return readable(fd, 0)

    def send(self, text: str = "m", priority: int | None = None, due: float | None = None) -> str:
        """Send as another program, a moment later than before, and return the ref."""
        (id,) = self.other.send([sealed(codec.encode(Message(text, priority=priority, due=due)))])
        self.clock.advance(TICK)
        return os.path.relpath(id, self.root)

    def given(self) -> list[str]:
        """Return the refs that are handed out after a refresh."""
        self.refresh()
        return [ticket.ref for ticket in self.feed.take(100)]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    """Return a function that creates one when the test is ready. All of them have the same time."""
    made: list[Watched] = []
    clock = FakeClock()

    def make(name: str = "mail") -> Watched:
        made.append(Watched(tmp_path / name, clock))
        return made[-1]

    yield make
    for watched in made:
        watched.feed.close()
        watched.backend.close()
        watched.other.close()


@pytest.fixture
def watched(make: Make) -> Watched:
    """An empty directory with a feed."""
    return make()


# --- arrivals


def test_nothing_happens_in_silence(watched: Watched) -> None:
    """A feed that was refreshed has nothing to do until the next scan."""
    assert not watched.told
    assert watched.given() == []
    state = watched.refresh()
    assert state.idle
    assert state.next_due == watched.clock() + PERIOD


def test_an_arrival_is_told(watched: Watched) -> None:
    """The kernel reports it without a scan: the descriptor is readable, and one refresh returns the task."""
    ref = watched.send()
    assert watched.told
    assert not watched.feed.refresh().more, "there is no scan to go on with"
    assert watched.given() == [ref]
    assert not watched.told


def test_many_arrivals(watched: Watched) -> None:
    """All of them are reported, and in order."""
    refs = [watched.send() for _ in range(300)]
    found = []
    while given := watched.given():
        found += given
    assert found == refs


def test_what_was_there_before(watched: Watched) -> None:
    """A feed begins with a scan, also of priorities."""
    refs = [watched.send(priority=2), watched.send(priority=10), watched.send()]
    watched.feed.close()
    watched.feed = watched.backend.feed()
    assert watched.given() == refs


def test_a_priority_that_is_new(watched: Watched) -> None:
    """Its directory is created after the watch began: from then on it is watched, and tasks that are already in it are
    found.
    """
    first = watched.send(priority=7)
    assert watched.told
    assert watched.given() == [first]
    second = watched.send(priority=7)
    assert watched.told
    assert watched.given() == [second]


def test_a_priority_that_is_moved_in(watched: Watched, make: Make, tmp_path: Path) -> None:
    """The directory already has a task, as when a person merges two spoolers."""
    ref = make("former").send(priority=3)
    (tmp_path / "former" / "3").rename(watched.root / "3")
    assert watched.told
    assert watched.given() == [ref]


def test_a_deferred_one_is_not_given_before_its_time(watched: Watched) -> None:
    """The feed knows its due time exactly."""
    due = watched.clock() + 20
    ref = watched.send(due=due)
    assert watched.given() == []
    assert watched.refresh().next_due == pytest.approx(due, abs=1e-6)
    watched.clock.advance(19.9)
    assert watched.given() == []
    watched.clock.advance(0.2)
    assert not watched.told
    assert watched.given() == [ref]


def test_touched_to_an_earlier_time(watched: Watched) -> None:
    """After ``touch`` on a deferred task, the mtime decides, and the task is handed out at once."""
    ref = watched.send(due=watched.clock() + 200)
    assert watched.given() == []
    subprocess.run(["touch", str(watched.root / ref)], check=True)
    assert watched.told
    assert watched.given() == [ref]


def test_a_foreign_writer_in_place_is_seen_when_it_closes(watched: Watched) -> None:
    """uWSGI writes under the final name: the task is handed out as soon as it is complete, and not before."""
    data = wire.dump({"msg": b"hello"}, b"", None)
    name = f"{PREFIX}1700000000_000000"
    with open(watched.root / name, "wb", buffering=0) as file:
        assert lock.acquire(file.fileno())
        file.write(data[:5])
        assert watched.given() == []
        file.write(data[5:])
        assert watched.given() == []
    assert watched.told
    assert watched.given() == [name]
    claim = claim_one(watched.backend, name)
    assert isinstance(claim, Claim)
    assert content_of(claim).vars == {"msg": b"hello"}
    settle_one(watched.backend, claim, Ack())


def test_other_names_are_nobodys_task(watched: Watched) -> None:
    """A file with any other name, and a directory that is not a number."""
    (watched.root / "README").write_text("")
    (watched.root / "notes").mkdir()
    (watched.root / "notes" / f"{PREFIX}1_0").write_text("")
    assert watched.given() == []
    watched.clock.advance(PERIOD)
    assert watched.given() == []


# --- what others hold


def test_let_go_of_by_another(watched: Watched) -> None:
    """A task that another process holds is handed out again when this process is killed, and not before."""
    ref = watched.send()
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.write(writer, type(claim_one(watched.other, ref)).__name__.encode())
            signal.pause()
        finally:
            os._exit(1)
    try:
        assert os.read(reader, 100) == b"Claim"
        assert watched.given() == [ref]
        assert isinstance(claim_one(watched.backend, ref), Refusal)
        watched.feed.recheck([ref])
        assert watched.given() == []
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(reader)
        os.close(writer)
    assert watched.told
    assert watched.given() == [ref]
    assert isinstance(claim_one(watched.backend, ref), Claim)


def test_let_go_of_before_we_heard(watched: Watched) -> None:
    """The holder ended between the refusal and its report. No event follows, so the task is checked."""
    ref = watched.send()
    assert watched.given() == [ref]
    watched.feed.recheck([ref])
    assert watched.given() == [ref]


# --- scans


def test_the_period_is_a_safety_net(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    """The scan at the end of the period finds tasks without an event."""
    with monkeypatch.context() as patch:
        patch.setattr(inotify_simple.INotify, "read", lambda self, timeout=None: [])
        ref = watched.send()
        assert watched.given() == []
        watched.clock.advance(PERIOD - 1)
        assert watched.given() == []
        watched.clock.advance(1)
        assert watched.given() == [ref]


def test_lost_events_ask_for_a_scan(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel reports that its queue has overflowed: all tasks are searched without waiting for the period."""
    overflow = inotify_simple.Event(-1, int(inotify_simple.flags.Q_OVERFLOW), 0, "")
    with monkeypatch.context() as patch:
        patch.setattr(inotify_simple.INotify, "read", lambda self, timeout=None: [overflow])
        ref = watched.send()
        watched.refresh()
    watched.clock.advance(1)
    assert watched.given() == [ref]


def test_a_scan_goes_in_steps(make: Make) -> None:
    """A long directory is scanned in parts, so that the supervisor is never busy for long, and is called again."""
    watched = make()
    for number in range(5_000):
        (watched.root / f"{PREFIX}{number}_000000").touch()
    other = watched.backend.feed()
    try:
        steps = 1
        while (state := other.refresh()).more:
            steps += 1
        assert steps > 2
        assert state.ready == 5_000
    finally:
        other.close()


# --- without the kernel's word


def no_instances() -> None:
    """The error of the system for too many watches."""
    raise OSError(errno.EMFILE, "Too many open files")


def test_polling_where_there_is_no_inotify(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system refuses a watcher: there is no descriptor, and a scan every second."""
    monkeypatch.setattr(inotify_simple, "INotify", lambda **options: no_instances())
    watched = make()
    assert watched.feed.fileno() is None
    due = watched.refresh().next_due
    assert due is not None
    assert due <= watched.clock() + 1
    ref = watched.send(priority=3)
    assert watched.given() == []
    watched.clock.advance(1)
    assert watched.given() == [ref]


def test_polling_where_watches_run_out(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system refuses one more watch: half of them would be worse than none, so the feed polls."""

    def refuse(self: object, path: str, mask: int) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    watched = make()
    assert watched.feed.fileno() is not None
    monkeypatch.setattr(inotify_simple.INotify, "add_watch", refuse)
    first = watched.send(priority=3)
    assert watched.given() == [first]
    assert watched.feed.fileno() is None
    second = watched.send(priority=3)
    watched.clock.advance(PERIOD)
    assert watched.given() == [second]
    third = watched.send()
    watched.clock.advance(1)
    assert watched.given() == [third]


# --- the directory itself


@pytest.mark.parametrize("how", ["removed", "moved"])
def test_a_lost_directory(watched: Watched, tmp_path: Path, how: str) -> None:
    """Its absence is noticed at once. When it is back, it is found, watched again, and its tasks are handed out."""
    watched.send()
    watched.refresh()
    if how == "moved":
        watched.root.rename(tmp_path / "aside")
    else:
        shutil.rmtree(watched.root)
    assert watched.told
    watched.refresh()
    watched.clock.advance(1)
    assert not watched.refresh().available

    anew = SpoolBackend(str(watched.root), durable=False, clock=watched.clock)
    (id,) = anew.send([sealed(codec.encode(Message("m", priority=2)))])
    watched.clock.advance(1)
    assert watched.given() == [os.path.relpath(id, watched.root)]
    assert watched.refresh().available

    (id,) = anew.send([sealed(codec.encode(Message("m")))])
    assert watched.told
    assert watched.given() == [os.path.relpath(id, watched.root)]
    anew.close()


def test_a_directory_that_is_moved_away_and_back(watched: Watched, tmp_path: Path) -> None:
    """The same directory, or another one that took its place at once: each time it is reported as gone, then as
    back.
    """
    watched.refresh()
    watched.root.rename(tmp_path / "aside")
    assert watched.told
    watched.refresh()
    watched.clock.advance(1)
    assert not watched.refresh().available
    (tmp_path / "aside").rename(watched.root)
    watched.clock.advance(1)
    assert watched.refresh().available

    watched.root.rename(tmp_path / "aside")
    watched.root.mkdir(mode=0o700)
    assert watched.told
    watched.refresh()
    watched.clock.advance(1)
    assert not watched.feed.refresh().available
    assert watched.refresh().available
    anew = SpoolBackend(str(watched.root), durable=False, clock=watched.clock)
    (id,) = anew.send([sealed(codec.encode(Message("m")))])
    assert watched.told
    assert watched.given() == [os.path.relpath(id, watched.root)]
    anew.close()


def test_a_priority_that_is_removed(watched: Watched) -> None:
    """It is created again: the other priorities continue, and the new directory is watched."""
    watched.send(priority=3)
    watched.refresh()
    shutil.rmtree(watched.root / "3")
    plain = watched.send()
    watched.clock.advance(1)
    assert plain in watched.given()
    again = SpoolBackend(str(watched.root), durable=False, clock=watched.clock)
    (id,) = again.send([sealed(codec.encode(Message("m", priority=3)))])
    assert watched.told
    assert watched.given() == [os.path.relpath(id, watched.root)]
    again.close()


# --- switches


def test_a_shorter_period_is_heard_at_once(watched: Watched) -> None:
    """Another process sets the period: the kernel reports it, and the next scan is earlier accordingly."""
    watched.other.switch(period=5)
    assert watched.told
    assert watched.refresh().next_due == watched.clock() + 5
    watched.clock.advance(5)
    assert watched.refresh().next_due == watched.clock() + 5


def test_a_longer_period(watched: Watched) -> None:
    """It applies from the next scan on."""
    before = watched.refresh().next_due
    watched.other.switch(period=1_000)
    assert watched.refresh().next_due == before
    watched.clock.advance(PERIOD)
    assert watched.refresh().next_due == watched.clock() + 1_000


def test_pause_and_resume_are_heard_at_once(watched: Watched) -> None:
    """Another process pauses the queue: no task is handed out during the pause, and all of them at its end, without a
    scan.
    """
    watched.other.switch(paused=True)
    assert watched.told
    ref = watched.send()
    assert watched.given() == []
    assert watched.refresh().paused
    watched.other.switch(paused=False)
    assert watched.told
    assert watched.given() == [ref]


def test_closing_ends_the_watch(watched: Watched) -> None:
    """There is no descriptor any more."""
    fd = watched.feed.fileno()
    assert fd is not None
    watched.feed.close()
    assert watched.feed.fileno() is None
    with contextlib.suppress(OSError):
        assert not os.readlink(f"/proc/self/fd/{fd}").endswith("inotify")
