"""The key-value table of a spool directory: odd files, sweeps, and a process or disk without room."""

import contextlib
import errno
import gc
import os
import resource
import socket
import threading
import time
import warnings
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from unspool.backends.keyvalue import EPHEMERAL, LARGEST_VALUE, Item, Until
from unspool.backends.spool import SpoolBackend, lock, mutex
from unspool.backends.spool.directory import Directory
from unspool.backends.spool.item import LARGEST_FILE, Stored, dump
from unspool.backends.spool.layout import KV
from unspool.backends.spool.mutex import Mutex
from unspool.errors import SpoolerUnusable
from unspool.testing import FakeClock

from .sweep import sweep

ITEM = dump(Stored(Item(b"forged", 5), EPHEMERAL))


@pytest.fixture
def clock() -> FakeClock:
    """The clock of the directory. Sweeps use the real one."""
    return FakeClock(time.time())


@pytest.fixture
def backend(tmp_path: Path, clock: FakeClock) -> Iterator[SpoolBackend]:
    """A directory with a table."""
    backend = SpoolBackend(str(tmp_path / "mail"), durable=False, clock=clock)
    backend.kv.put("present", b"value")
    yield backend
    backend.close()


def table(backend: SpoolBackend) -> Path:
    """The directory of the table."""
    return Path(backend.name, ".unspool", "kv")


def bind(path: Path) -> None:
    """Create a socket, with a path that is short enough."""
    at = os.open(path.parent, os.O_RDONLY)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(f"/proc/self/fd/{at}/{path.name}")
    os.close(at)


def grow(path: Path) -> None:
    """Create a sparse file of 8 TiB."""
    path.write_bytes(ITEM)
    os.truncate(path, 1 << 43)


ODD: dict[str, Callable[[Path], object]] = {
    "fifo": os.mkfifo,
    "link": lambda path: path.symlink_to(path.parent / ",present"),
    "link to a fifo": lambda path: (os.mkfifo(path.parent / "fifo"), path.symlink_to(path.parent / "fifo")),
    "link to itself": lambda path: path.symlink_to(path.name),
    "hard link": lambda path: os.link(path.parent / ",present", path),
    "directory": Path.mkdir,
    "socket": bind,
    "huge": grow,
    "empty": Path.touch,
    "one byte too many": lambda path: path.write_bytes(ITEM + bytes(LARGEST_FILE)),
    "garbage": lambda path: path.write_bytes(os.urandom(100)),
    "cut short": lambda path: path.write_bytes(ITEM[:-1]),
    "writable by all": lambda path: (path.write_bytes(ITEM), path.chmod(0o666)),
    "unlocked": lambda path: path.write_bytes(ITEM),
}


@pytest.mark.parametrize("kind", ODD)
def test_what_is_no_item(backend: SpoolBackend, kind: str) -> None:
    """An odd file is not an item. It blocks nothing, is not followed, and the next put replaces it."""
    ODD[kind](table(backend) / ",key")
    kv = backend.kv
    assert kv.get(["key"]) == [None]
    assert "key" not in [key for key, _ in kv.scan("")]
    assert not kv.wait({"key": 0}, 0)
    assert not kv.drop("key")
    sweep(backend.name)
    assert os.path.lexists(table(backend) / ",key") == (kind != "unlocked")  # an item of a dead process
    if kind == "directory":
        with pytest.raises(SpoolerUnusable, match="kv/,key is a directory; move it away"):
            kv.put("key", b"new", expect=0)
    else:
        version = kv.put("key", b"new", expect=0)
        assert version
        assert kv.get(["key"]) == [Item(b"new", version)]
    assert [item and item.value for item in kv.get(["present"])] == [b"value"]
    assert os.listdir(f"{backend.name}/.unspool/tmp") == []


@pytest.mark.parametrize("kind", ["fifo", "link", "hard link", "directory", "socket"])
def test_what_is_no_lock(backend: SpoolBackend, kind: str) -> None:
    """An odd file in place of the lock prevents changes with a clear error, but not reading."""
    os.unlink(table(backend) / "lock")
    ODD[kind](table(backend) / "lock")
    use: Callable[[], object]
    for use in (lambda: backend.kv.put("key", b""), lambda: backend.kv.drop("present")):
        with pytest.raises(SpoolerUnusable, match=f"spooler {backend.name} cannot be used: .*kv/lock is a"):
            use()
    if kind != "hard link":
        assert [item and item.value for item in backend.kv.get(["present"])] == [b"value"]
    assert os.listdir(f"{backend.name}/.unspool/tmp") == []


@pytest.mark.parametrize("kind", ["fifo", "link", "file"])
def test_what_is_no_table(tmp_path: Path, kind: str) -> None:
    """An odd file in place of the directory of the table is not followed, and the error names it."""
    outside = tmp_path / "outside"
    outside.mkdir()
    backend = SpoolBackend(str(tmp_path / "mail"))
    backend.switch(paused=True)
    path = table(backend)
    {"fifo": os.mkfifo, "link": lambda path: path.symlink_to(outside)}.get(kind, Path.touch)(path)
    uses: list[Callable[[], object]] = [
        lambda: backend.kv.get(["key"]),
        lambda: backend.kv.put("key", b""),
        lambda: backend.kv.drop("key"),
        lambda: backend.kv.scan(""),
        lambda: backend.kv.wait({"key": 0}, 1),
    ]
    for use in uses:
        with pytest.raises(SpoolerUnusable, match=f"spooler {backend.name} cannot be used: .*kv"):
            use()
    assert list(outside.iterdir()) == []


def test_reading_creates_nothing(tmp_path: Path) -> None:
    """A directory without a table has no items. Reading creates neither."""
    backend = SpoolBackend(str(tmp_path / "mail"))
    for _ in range(2):
        assert backend.kv.get(["key"]) == [None]
        assert backend.kv.scan("") == []
        assert not backend.kv.drop("key")
        assert not backend.kv.wait({"key": 0}, 0)
        assert backend.kv.wait({"key": 1}, 0)
        assert not table(backend).exists()
        backend.switch(paused=True)


def test_a_table_that_is_removed(backend: SpoolBackend) -> None:
    """After ``rm -r .unspool/kv`` there are no items, a wait ends, and the table is created by the next put."""
    (item,) = backend.kv.get(["present"])
    assert item is not None
    woken: list[bool] = []
    thread = threading.Thread(target=lambda: woken.append(backend.kv.wait({"present": item.version, "new": 0}, 50)))
    thread.start()
    backend.kv.put("other", b"")
    os.rename(table(backend), f"{table(backend)}.old")
    assert backend.kv.get(["present"]) == [None]
    thread.join()
    assert woken == [True]
    assert backend.kv.put("present", b"", expect=0)
    assert [key for key, _ in backend.kv.scan("")] == ["present"]


def test_a_wait_survives_the_removal_of_the_table(backend: SpoolBackend) -> None:
    """A wait for a key without an item continues in the directory that replaces that of the table."""
    woken: list[bool] = []
    thread = threading.Thread(target=lambda: woken.append(backend.kv.wait({"new": 0}, 50)))
    thread.start()
    assert not backend.kv.wait({"new": 0}, 0.1)
    os.rename(table(backend), f"{table(backend)}.old")
    backend.kv.put("new", b"")
    thread.join()
    assert woken == [True]


def test_what_is_swept(backend: SpoolBackend, clock: FakeClock) -> None:
    """Only expired items are swept. Files that do not belong to the table are left alone."""
    other = SpoolBackend(backend.name, durable=False, clock=clock)
    backend.kv.put("mine", b"", life=EPHEMERAL)
    other.kv.put("theirs", b"", life=EPHEMERAL)
    backend.kv.put("past", b"", life=Until(clock() - 60))
    backend.kv.put("later", b"", life=Until(clock() + 60))
    (table(backend) / "README").touch()
    sweep(backend.name)
    assert sorted(os.listdir(table(backend))) == [",later", ",mine", ",present", ",theirs", "README", "lock"]
    other.close()
    sweep(backend.name)
    assert sorted(os.listdir(table(backend))) == [",later", ",mine", ",present", "README", "lock"]


def test_a_lock_that_is_not_released(backend: SpoolBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    """A change waits for the lock for a limited time, and then names it. Reading needs no lock."""
    monkeypatch.setattr(mutex, "_PATIENCE", 0.05)
    held = os.open(table(backend) / "lock", os.O_RDWR)
    assert lock.acquire(held)
    with pytest.raises(SpoolerUnusable, match=r"another process has locked \.unspool/kv/lock"):
        backend.kv.put("key", b"")
    assert backend.kv.get(["key"]) == [None]
    assert [key for key, _ in backend.kv.scan("")] == ["present"]
    assert os.listdir(f"{backend.name}/.unspool/tmp") == []
    os.close(held)
    assert backend.kv.put("key", b"")


def test_a_lock_file_that_is_removed(backend: SpoolBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that waits for a lock file that is removed meanwhile takes the lock of the present file."""
    path = table(backend) / "lock"
    held = os.open(path, os.O_RDWR)
    assert lock.acquire(held)
    acquire = lock.acquire

    def replaced(fd: int, byte: int | None = None) -> bool:
        if os.fstat(fd).st_ino == os.fstat(held).st_ino:
            path.unlink(missing_ok=True)
            path.touch(mode=0o600)
            os.close(held)
            monkeypatch.undo()
        return acquire(fd, byte)

    monkeypatch.setattr(lock, "acquire", replaced)
    inode = os.stat(path).st_ino
    with Mutex(Directory(backend.name), KV, "lock").held():
        assert os.stat(path).st_ino != inode
        present = os.open(path, os.O_RDWR)
        assert not lock.acquire(present)
        os.close(present)


def in_a_child(work: Callable[[], object]) -> None:
    """Do the work in a child process, and fail if it fails."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_a_process_without_descriptors(backend: SpoolBackend) -> None:
    """An item that cannot be read for lack of descriptors is not shown as absent: that is an error."""

    def work() -> None:
        backend.kv.put("mine", b"")
        usual, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, most))
        for use in (backend.kv.get, lambda _: backend.kv.scan(""), lambda _: backend.kv.wait({"present": 0}, 0)):
            with pytest.raises(SpoolerUnusable, match="too many open files"):
                use(["present"])
        for change in (lambda: backend.kv.put("mine", b"new"), lambda: backend.kv.drop("present")):
            with pytest.raises(SpoolerUnusable, match="too many open files"):
                change()
        resource.setrlimit(resource.RLIMIT_NOFILE, (usual, most))
        assert [key for key, _ in backend.kv.scan("")] == ["mine", "present"]

    in_a_child(work)


def test_a_file_that_cannot_be_written(backend: SpoolBackend) -> None:
    """A value for which there is no room is an error. The old one stays, and nothing is left behind."""

    def work() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
        with pytest.raises(SpoolerUnusable) as caught:
            backend.kv.put("present", bytes(LARGEST_VALUE))
        assert caught.value.errno == errno.EFBIG

    in_a_child(work)
    assert [item and item.value for item in backend.kv.get(["present"])] == [b"value"]
    assert os.listdir(f"{backend.name}/.unspool/tmp") == []


def _files_of(backend: SpoolBackend) -> int:
    """Return the number of items that this process has open. The garbage collection of other tests may close
    descriptors meanwhile.
    """
    number = 0
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            number += os.readlink(f"/proc/self/fd/{fd}").startswith(f"{backend.name}/.unspool/kv/")
    return number


def test_ephemeral_items_do_not_use_up_descriptors(backend: SpoolBackend) -> None:
    """A descriptor is kept for each ephemeral item that this process has, and for no former ones."""
    other = SpoolBackend(backend.name, durable=False)
    for number in range(3):
        backend.kv.put(f"dropped/{number}", b"", life=EPHEMERAL)
        backend.kv.put(f"replaced/{number}", b"", life=EPHEMERAL)
    before = _files_of(backend)
    for number in range(3):
        other.kv.drop(f"dropped/{number}")
        other.kv.put(f"replaced/{number}", b"")
    for _ in range(10):
        backend.kv.put("one", b"", life=EPHEMERAL)
    backend.kv.put("two", b"", life=EPHEMERAL)
    backend.kv.put("two", b"")
    backend.kv.put("three", b"", life=EPHEMERAL)
    backend.kv.drop("three")
    other.close()
    assert _files_of(backend) == before - 6 + 1


def test_waits_share_a_descriptor(backend: SpoolBackend) -> None:
    """A wait leaves one descriptor open for the next one. A forked child has its own, and ``close`` closes it."""
    (item,) = backend.kv.get(["present"])
    assert item is not None
    before = set(os.listdir("/proc/self/fd"))
    for _ in range(3):
        assert not backend.kv.wait({"present": item.version}, 0.001)
        assert len(set(os.listdir("/proc/self/fd")) - before) == 1
    woken: list[bool] = []

    def work() -> None:
        assert set(os.listdir("/proc/self/fd")) <= before
        assert not backend.kv.wait({"present": item.version}, 0.001)

    in_a_child(work)
    thread = threading.Thread(target=lambda: woken.append(backend.kv.wait({"present": item.version}, 50)))
    thread.start()
    backend.kv.put("present", b"new")
    thread.join()
    assert woken == [True]
    backend.close()
    assert set(os.listdir("/proc/self/fd")) <= before


def test_a_table_that_is_not_closed(backend: SpoolBackend) -> None:
    """The descriptor of its waits is closed, without a warning, when the object is no longer used."""
    other = SpoolBackend(backend.name, durable=False)
    assert not other.kv.wait({"none": 0}, 0.001)
    ended = weakref.ref(other.kv)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        del other
        gc.collect()
    assert ended() is None
    assert caught == []


def test_a_program_that_closes_all_descriptors(tmp_path: Path) -> None:
    """Its ephemeral items end. The next change works, and closes no file that has got the number since."""

    def work() -> None:
        backend = SpoolBackend(str(tmp_path / "mail"), durable=False)
        version = backend.kv.put("key", b"", life=EPHEMERAL)
        assert version
        assert not backend.kv.wait({"key": version}, 0.01)
        highest = max(map(int, os.listdir("/proc/self/fd")))  # the process of the tests may have many
        os.closerange(3, highest + 1)
        opened = {os.open("/dev/null", os.O_RDONLY) for _ in range(highest)}
        assert backend.kv.get(["key"]) == [None]
        assert not backend.kv.wait({"key": 0}, 0.01)
        backend.kv.put("key", b"again", life=EPHEMERAL)
        assert backend.kv.get(["key"]) != [None]
        backend.close()
        assert {os.readlink(f"/proc/self/fd/{fd}") for fd in opened} == {"/dev/null"}

    in_a_child(work)
