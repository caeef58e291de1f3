"""A sender that lives on while its directory is moved, replaced or removed, or its descriptors are closed."""

import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from unspool import points
from unspool.backends.spool import SpoolBackend
from unspool.backends.spool.directory import Directory
from unspool.backends.spool.layout import TMP
from unspool.backends.spool.names import is_task
from unspool.errors import SpoolerUnusable
from unspool.message import Ack, Claim, Content, Envelope, Refusal, RefusalKind
from unspool.testing.exchange import claim_one, sealed, settle_one

ENVELOPE = sealed(Content({"msg": b"good"}, b"", None, None))
URGENT = ENVELOPE._replace(priority=5)
POSTPONED = ENVELOPE._replace(due=2e9)


@pytest.fixture(params=[False, True], ids=["relaxed", "full"])
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> SpoolBackend:
    """A spooler that this process has used before, with one task, and one of priority 5."""
    (tmp_path / "rel1").mkdir()
    (tmp_path / "current").symlink_to("rel1")
    backend = SpoolBackend(str(tmp_path / "current" / "mail"), durable=request.param)
    backend.send([ENVELOPE])
    backend.send([URGENT])
    return backend


def tasks(place: Path) -> list[str]:
    """Return the names of the tasks below a directory."""
    return sorted(path.name for path in place.rglob("uwsgi_spoolfile_on_*") if is_task(path.name))


def swap_link(root: Path) -> None:
    """Change a link, as a deploy does."""
    (root.parent.parent / "rel2").mkdir()
    (root.parent.parent / "new").symlink_to("rel2")
    (root.parent.parent / "new").rename(root.parent.parent / "current")


def move_away(root: Path) -> None:
    """Move the directory away. Nothing takes its place."""
    root.rename(root.with_name("old"))


def replace(root: Path) -> None:
    """Move the directory away, and give its name to another one."""
    root.rename(root.with_name("old"))
    root.mkdir(mode=0o700)


def move_priority(root: Path) -> None:
    """Move only the directory of priority 5."""
    (root / "5").rename(root.parent / "old")


def remove(root: Path) -> None:
    """Remove the directory with its content."""
    shutil.rmtree(root)


def remove_private(root: Path) -> None:
    """Remove the directory of unspool's own files."""
    shutil.rmtree(root / ".unspool")


@pytest.mark.parametrize("change", [swap_link, move_away, replace, move_priority, remove, remove_private])
@pytest.mark.parametrize("envelope", [ENVELOPE, URGENT, POSTPONED], ids=["plain", "priority", "postponed"])
def test_a_task_goes_where_the_path_leads(
    backend: SpoolBackend, change: Callable[[Path], None], envelope: Envelope
) -> None:
    """Each single task and each task of a batch is found by its id, and the former directory gets nothing."""
    root = Path(backend.name)
    change(root)
    old = [place for place in (root.with_name("old"), root.parent.parent / "rel1") if place.exists()]
    before = [tasks(place) for place in old if root.parent.resolve() != place]
    ids = [*backend.send([envelope]), *backend.send([envelope] * 40)]
    assert len(set(ids)) == 41
    assert all(map(os.path.exists, ids))
    assert [tasks(place) for place in old if root.parent.resolve() != place] == before
    assert len(set(tasks(root)) & {os.path.basename(id) for id in ids}) == 41


def test_a_batch_into_a_priority_that_was_removed(backend: SpoolBackend) -> None:
    """Each task is in the queue once: those that were sent before the removal was noticed are not sent again."""
    root = Path(backend.name)
    for path in (root / "5").iterdir():
        path.unlink()
    (root / "5").rmdir()
    before = tasks(root)
    ids = backend.send([*[ENVELOPE] * 40, URGENT])
    assert sorted([*before, *map(os.path.basename, ids)]) == tasks(root)


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Callable[[], None]]:
    """Mount a new file system over the spool, whose root has the same inode number as that of the former one."""
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    root = tmp_path / "mail"
    root.mkdir(mode=0o700)

    def mount() -> None:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=700", "none", root], check=True)

    mount()
    yield mount
    while os.path.ismount(root):
        subprocess.run(["umount", "-l", root], check=True)


@pytest.mark.root
def test_another_volume_of_the_same_inode_number(mounted: Callable[[], None], tmp_path: Path) -> None:
    """Senders write to it, and workers notice it, because an inode number is unique only within a file system."""
    root = tmp_path / "mail"
    worker, sender = Directory(str(root)), SpoolBackend(str(root), durable=False)
    sender.send([ENVELOPE])
    inode = os.fstat(worker.fd("")).st_ino
    mounted()
    assert root.stat().st_ino == inode
    assert worker.is_gone()
    (id,) = sender.send([ENVELOPE])
    assert tasks(root) == [os.path.basename(id)]
    sender.close()


CLOSED = {
    "nothing": lambda _: None,
    "files": lambda place: [os.open(place / f"log{number}", os.O_RDWR | os.O_CREAT) for number in range(20)],
    "directories": lambda place: [os.open(place, os.O_RDONLY) for _ in range(20)],
}


@pytest.mark.parametrize("then", CLOSED)
def test_a_daemon_sets_the_period(backend: SpoolBackend, tmp_path: Path, then: str) -> None:
    """This holds for whatever a program does first after closing all descriptors."""
    (tmp_path / "mine").mkdir()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            backend.switch(period=3)
            os.closerange(3, 256)
            CLOSED[then](tmp_path / "mine")
            backend.switch(period=7)
            status = backend.switch().period != 7.0 or "period" in os.listdir(tmp_path / "mine")
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


@pytest.mark.parametrize("then", CLOSED)
@pytest.mark.parametrize("envelope", [ENVELOPE, URGENT, POSTPONED], ids=["plain", "priority", "postponed"])
def test_a_daemon_closes_all_descriptors(backend: SpoolBackend, tmp_path: Path, then: str, envelope: Envelope) -> None:
    """It sends on, and leaves the files alone that now have its former descriptors' numbers."""
    (tmp_path / "mine").mkdir()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            backend.send([envelope])  # opens what a fork does not inherit
            os.closerange(3, 256)
            mine = CLOSED[then](tmp_path / "mine") or []
            ids = [*backend.send([envelope]), *backend.send([envelope] * 3)]
            good = [os.path.exists(id) for id in ids] == [True] * 4
            names = {f"log{number}" for number in range(20)} if then == "files" else set()
            good &= set(os.listdir(tmp_path / "mine")) == names
            backend.close()
            status = not good or len([fd for fd in mine if os.fstat(fd)]) != len(mine)
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


# --- while a task is being written


def at(point: str, monkeypatch: pytest.MonkeyPatch, work: Callable[[], None]) -> None:
    """Do something when a send first reaches the point."""
    done: list[str] = []

    def reach(name: str) -> None:
        if name == point and not done:
            done.append(name)
            work()

    monkeypatch.setattr(points, "reach", reach)


@pytest.mark.parametrize("removed", ["a priority", ".unspool", ".unspool/writers"])
def test_a_living_sender_is_not_taken_for_dead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, removed: str) -> None:
    """Whatever is removed while it writes, and whatever another thread does about that, no worker removes its file."""
    sender = SpoolBackend(str(tmp_path / "mail"), durable=False)
    root = Path(sender.name)
    os.unlink(*sender.send([URGENT]))
    answers: list[Claim | Refusal] = []

    def work() -> None:
        if removed == "a priority":
            (root / "5").rmdir()
        elif removed == ".unspool":
            shutil.rmtree(root / removed)
        else:
            (root / removed).unlink()
        other = threading.Thread(target=lambda: os.unlink(*sender.send([URGENT])))
        other.start()
        other.join()
        worker = SpoolBackend(sender.name)
        answers.append(claim_one(worker, *tasks(root)))

    at("send.written", monkeypatch, work)
    (id,) = sender.send([ENVELOPE])
    assert [isinstance(answer, Refusal) and answer.kind for answer in answers] == [RefusalKind.EARLY]
    claim = claim_one(SpoolBackend(sender.name), os.path.basename(id))
    assert isinstance(claim, Claim)


@pytest.mark.parametrize("durable", [False, True], ids=["relaxed", "full"])
@pytest.mark.parametrize("envelope", [ENVELOPE, URGENT], ids=["plain", "priority"])
@pytest.mark.parametrize("change", ["file", "directory", "moved"])
def test_what_vanishes_while_it_is_written_is_sent_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, envelope: Envelope, durable: bool, change: str
) -> None:
    """No id is returned for a file that lost its name before it became a task."""
    sender = SpoolBackend(str(tmp_path / "mail"), durable=durable)
    root = Path(sender.name)
    (before,) = sender.send([envelope])

    def work() -> None:
        if change == "file":
            (new,) = [path for path in root.rglob("uwsgi_spoolfile_on_*") if str(path) != before]
            new.unlink()
        elif change == "directory":
            shutil.rmtree(root)
        else:
            root.rename(tmp_path / "old")

    at("send.written", monkeypatch, work)
    (id,) = sender.send([envelope])
    assert os.path.exists(id)
    assert len(tasks(root)) == 1 + (change == "file")
    assert change != "moved" or len(tasks(tmp_path / "old")) == 1


@pytest.mark.parametrize("durable", [False, True], ids=["relaxed", "full"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_an_interrupted_send_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, durable: bool, error: type[BaseException]
) -> None:
    """No other process may remove what a live process has not finished."""
    sender = SpoolBackend(str(tmp_path / "mail"), durable=durable)

    def work() -> None:
        raise error

    at("send.written", monkeypatch, work)
    with pytest.raises(error):
        sender.send([ENVELOPE] * 3)
    assert tasks(tmp_path) == []


def test_a_task_is_removed_by_its_verdict_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A task that a worker has ended before the send returns is not sent again."""
    sender = SpoolBackend(str(tmp_path / "mail"), durable=False)

    def work() -> None:
        worker = SpoolBackend(sender.name)
        claim = claim_one(worker, *tasks(tmp_path))
        assert isinstance(claim, Claim)
        settle_one(worker, claim, Ack())

    at("send.renamed", monkeypatch, work)
    assert len(sender.send([ENVELOPE])) == 1
    assert tasks(tmp_path) == []


# --- descriptors


def test_descriptors_stay_flat(tmp_path: Path) -> None:
    """Descriptors do not accumulate when a directory is removed repeatedly under a process with threads, which must not
    close those that others may use.
    """
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait)
    thread.start()
    try:
        sender = SpoolBackend(str(tmp_path / "mail"), durable=False)
        counts = []
        for number in range(20):
            os.unlink(*sender.send([URGENT]))
            counts.append(len(os.listdir("/proc/self/fd")))
            if number % 2:
                os.rmdir(f"{sender.name}/5")
            else:
                shutil.rmtree(sender.name)
        assert counts[-1] <= counts[2]
    finally:
        stop.set()
        thread.join()


def test_a_part_keeps_its_number(tmp_path: Path) -> None:
    """Another thread may be about to use it, so it becomes a descriptor of the new directory."""
    directory = Directory(str(tmp_path / "mail"))
    fd = directory.fd(TMP)
    shutil.rmtree(directory.root)
    directory.reopen()
    assert directory.fd(TMP) == fd
    assert os.fstat(fd).st_ino == os.stat(directory.path(TMP)).st_ino


def test_a_spooler_that_cannot_be_reached_any_more(tmp_path: Path) -> None:
    """Something else has its name: the sender gets an error, and writes nothing to the open directory."""
    sender = SpoolBackend(str(tmp_path / "mail"), durable=False)
    sender.send([ENVELOPE])
    (tmp_path / "mail").rename(tmp_path / "old")
    (tmp_path / "mail").write_text("a file")
    with pytest.raises(SpoolerUnusable, match="it is a file; name a directory") as caught:
        sender.send([ENVELOPE])
    assert caught.value.sent == ()
    assert len(tasks(tmp_path / "old")) == 1
