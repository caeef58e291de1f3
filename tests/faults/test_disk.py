"""A disk that is full, of data or of inodes: sending says so, and workers continue and make room."""

import contextlib
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from unspool import codec, inspection, raw_message
from unspool.backends.change import Remove, RunNow
from unspool.backends.spool import SpoolBackend
from unspool.errors import SpoolerUnusable
from unspool.message import Record, State
from unspool.testing.exchange import sealed

from ..runtime.conftest import Place
from .conftest import needs
from .ext4 import Ext4

pytestmark = pytest.mark.root


@pytest.fixture
def small(place: Place) -> Iterator[Place]:
    """A place whose spooler is on a disk of 64 KB and 40 inodes."""
    needs(root=True)
    place.spool.mkdir(mode=0o700)
    options = "size=256k,nr_inodes=40,mode=700"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", place.spool], check=True)
    yield place
    for running in place.running:
        running.process.kill()
    subprocess.run(["umount", "--lazy", place.spool], check=True)


def fill(directory: Path) -> None:
    """Use up the last block."""
    fd = os.open(directory / "ballast", os.O_WRONLY | os.O_CREAT)
    with contextlib.suppress(OSError):
        while os.write(fd, bytes(4096)):
            pass
    os.close(fd)


@pytest.mark.parametrize("what", ["data", "inodes"])
def test_tasks_run_on_a_full_disk(small: Place, what: str) -> None:
    """Each acknowledged task that can end does, and one that fails is kept. A refused one leaves nothing. Workers start
    while there is no room at all.
    """
    small.write_app("""
    @Spooler.task
    def mark(n, ballast): note("mark", n); return True
    @Spooler.task(max_attempts=2, retry_delay=0)
    def fail(n): note("fail", n); raise ValueError(n)
    """)
    small.call(f"""
        from unspool.errors import SpoolerUnusable
        fail(0); fail(1)
        for n in range(100):
            try: mark(n, "x" * {30_000 if what == "data" else 1})
            except SpoolerUnusable as error: note("refused", n, str(error).rpartition(": ")[2].replace(" ", "_"))
            else: note("sent", n)
    """)
    if what == "data":
        fill(small.spool)
    sent = {line.split()[1] for line in small.lines() if line.startswith("sent")}
    refused = [line.split()[2] for line in small.lines() if line.startswith("refused")]
    assert sent
    assert set(refused) == {"the_disk_is_full,_of_data_or_of_inodes;_make_room_and_send_again"}
    assert os.listdir(small.spool / ".unspool" / "tmp") == []
    running = small.run("--processes", "2")
    while running.verdicts().count("processed") < len(sent):
        running.wait_for_verdict("processed")
    assert running.stop() == 0
    assert {line.split()[1] for line in small.lines() if line.startswith("mark")} == sent
    backend = SpoolBackend(str(small.spool))
    # Where there is no room even to count an attempt, a failed task waits a minute, by which there may be.
    failed = [entry for entry in inspection.tasks(backend) if entry.task == "tasks:fail"]
    assert [entry.state in (State.DEAD, State.DEFERRED, State.READY) for entry in failed] == [True, True]
    assert {line for line in small.lines() if line.startswith("fail")} == {"fail 0", "fail 1"}
    assert sum(backend.counts().tasks.values()) == 2


def test_people_on_a_full_disk(small: Place) -> None:
    """Listing, retrying and removing need no room. Pausing does, and says so."""
    backend = SpoolBackend(str(small.spool))
    big = sealed(codec.encode(raw_message("hello", payload="x" * 20_000)))
    ids: list[str] = []
    backend.switch(period=3)
    with contextlib.suppress(SpoolerUnusable):
        while True:
            ids += backend.send([big])
    fill(small.spool)
    assert [entry.id for entry in inspection.tasks(backend)] == ids
    assert backend.counts().tasks[State.READY] == len(ids)
    assert backend.change(ids[0], RunNow()) == ids[0]
    with pytest.raises(SpoolerUnusable, match="the disk is full"):
        backend.switch(period=7)
    assert backend.switch().period == 3
    backend.change(ids[0], Remove())
    assert [entry.id for entry in inspection.tasks(backend)] == ids[1:]
    backend.close()


def test_a_batch_for_which_the_directory_has_no_room(tmp_path: Path) -> None:
    """A rename may need a new block. The earlier tasks are in the queue, and the error names them."""
    needs(root=True, tool="mkfs.ext4")
    disk = Ext4(tmp_path)
    try:
        backend = SpoolBackend(str(disk.root / "mail"), durable=True)
        message = sealed(codec.encode(raw_message("hello", priority=5)))
        sent = backend.send([message])
        fill(disk.root)
        with (disk.root / "ballast").open("r+b") as ballast:
            ballast.truncate((disk.root / "ballast").stat().st_size - 60 * 4096)

        def send_on() -> None:
            while True:
                sent.extend(backend.send([message] * 40))

        with pytest.raises(SpoolerUnusable, match="the disk is full") as caught:
            send_on()
        assert sorted(entry.id for entry in inspection.tasks(backend)) == sorted([*sent, *caught.value.sent])
        backend.close()
    finally:
        disk.close()


_BLOCK = 1024


@pytest.mark.parametrize("left_in_wal_mode", [False, True])
def test_history_on_a_full_disk_of_small_blocks(tmp_path: Path, left_in_wal_mode: bool) -> None:
    """With any number of free blocks, no process that reads or writes history is killed by SIGBUS, and reading needs no
    room. The same holds for a database in WAL mode, which SQLite would map into memory.
    """
    needs(root=True, tool="mkfs.ext4")
    disk = Ext4(tmp_path, size=16, block=_BLOCK)
    try:
        spooler, database = str(disk.root / "mail"), disk.root / "mail/.unspool/history.sqlite3"
        now = time.time()
        records = [Record(f"/mail/{number}", "app:f", "processed", 1, now + number, 0.5, 4711) for number in range(200)]

        def write() -> None:
            backend = SpoolBackend(spooler)
            with contextlib.suppress(SpoolerUnusable):
                backend.record(records)
            backend.close()

        def read() -> None:
            backend = SpoolBackend(spooler)
            assert inspection.runs(backend, limit=1) == records[-1:]
            backend.close()

        write()
        fill(disk.root)
        for _ in range(24):
            ballast = disk.root / "ballast"
            os.truncate(ballast, ballast.stat().st_size - _BLOCK)
            for use in (read, write):
                if left_in_wal_mode:
                    _set_wal_mode(database)
                assert _status_in_a_fork(use) == 0
    finally:
        disk.close()


def _set_wal_mode(database: Path) -> None:
    """Set the two bytes of the header that select WAL mode."""
    with database.open("r+b") as file:
        file.seek(18)
        file.write(b"\2\2")


def _status_in_a_fork(use: Callable[[], None]) -> int:
    """Return 0, or the number of the signal that has killed the fork, or 256 if it has failed."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            use()
            status = 0
        finally:
            os._exit(status)
    return os.waitpid(pid, 0)[1]
