"""The task that a part of an id identifies."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from unspool import Spooler, raw_message, settings
from unspool.backends.memory import MemoryBackend
from unspool.backends.spool import SpoolBackend
from unspool.backends.spool.pieces import is_piece
from unspool.codec import encode
from unspool.errors import AmbiguousId
from unspool.lookup import find_ended, find_task
from unspool.message import Record
from unspool.task_id import short_id
from unspool.testing.exchange import sealed

NAME = "uwsgi_spoolfile_on_my_vm_11022_6_2191279654_1795678695_496742"
OWN = "11022_6_2191279654"


@pytest.mark.parametrize("host", ["vm", "my_vm", "vm_1_2", "", "7"])
def test_the_part_of_a_name_that_differs(host: str) -> None:
    """Prefix, host and time are omitted, whatever the host is called."""
    assert short_id(f"uwsgi_spoolfile_on_{host}_{OWN}_1795678695_496742") == OWN


@pytest.mark.parametrize("name", ["uwsgi_spoolfile_on_report", f"{NAME}~2", "uwsgi_spoolfile_on_1_2_3"])
def test_the_name_of_another_program(name: str) -> None:
    """The short form is everything except the prefix, and no shorter part is accepted."""
    assert short_id(name) == name.removeprefix("uwsgi_spoolfile_on_")
    assert is_piece(short_id(name), name)
    assert is_piece(name, name)
    assert not is_piece(name[:-1], name)
    assert not is_piece(short_id(name)[1:], name)


@pytest.mark.parametrize(
    "piece",
    [
        NAME,
        NAME[:-12],
        OWN,
        "11022_6",
        "11022_6_",
        "11022_6_21",
        "1795678695_496742",
        "5_496742",
        "54_1795678695_496742",
    ],
)
def test_pieces(piece: str) -> None:
    """A part begins with the pid or the prefix, or ends with the time."""
    assert is_piece(piece, NAME)


@pytest.mark.parametrize(
    "piece", ["11022", "1102", "022_6_2191279654", "vm_11022_6_2191", "uwsgi_spoolfile_on_my", "6742", "6_2191279654"]
)
def test_what_is_no_piece(piece: str) -> None:
    """Half a number, a part from the middle, and a part that all tasks have are not accepted."""
    assert not is_piece(piece, NAME)
    assert not is_piece("11022_6", NAME.replace("_6_", "_61_"))


def _spool(path: Path, *names: str) -> SpoolBackend:
    for name in names:
        (path / name).parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        (path / name).write_bytes(b"\x11\0\0\0")
    return SpoolBackend(str(path))


def test_a_piece_of_several_ids(tmp_path: Path) -> None:
    """The error names the tasks, also those with priorities and dead letters. More of the id finds one of them."""
    names = [NAME, f"5/{NAME.replace('2191279654', '77')}", f".unspool/dead/5/{NAME.replace('2191279654', '78')}"]
    backend = _spool(tmp_path / "mail", *names)
    with pytest.raises(AmbiguousId) as error:
        find_task("11022_6", [backend])
    assert all(f"{tmp_path}/mail/{name}" in str(error.value) for name in names)
    found = [find_task(piece, [backend]) for piece in (OWN, "11022_6_77", "11022_6_78")]
    assert [one and (one[1].id, one[1].priority) for one in found] == [
        (f"{tmp_path}/mail/{name}", priority) for name, priority in zip(names, (None, 5, 5), strict=True)
    ]
    assert find_task("11022", [backend]) is None


def test_an_error_names_a_few_of_many(tmp_path: Path) -> None:
    """For a part of very many ids, the error is not longer than for a few."""
    backend = _spool(tmp_path / "mail", *(NAME.replace("2191279654", str(number)) for number in range(100, 200)))
    with pytest.raises(AmbiguousId, match=", and others; give more of the id") as error:
        find_task("11022_6", [backend])
    assert str(error.value).count(str(tmp_path)) == 5


@pytest.mark.parametrize("find", [find_task, find_ended])
def test_one_id_in_two_spoolers(find: Callable[..., object]) -> None:
    """A number that tasks of two spoolers have is ambiguous, like a part."""
    backends = [MemoryBackend("a"), MemoryBackend("b")]
    for backend in backends:
        backend.send([sealed(encode(raw_message("x")))])
        backend.record([Record(f"{backend.name}/1", "x", "processed", 1, 1.0, 1.0, 1)])
    with pytest.raises(AmbiguousId, match="memory://a/1, memory://b/1"):
        find("1", backends)
    assert find("memory://a/1", backends) is not None


def test_a_lookup_reads_each_name_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However the id is given, each directory is read at most once, and none for a whole id."""
    backend = _spool(tmp_path / "mail", NAME, f"5/{NAME.replace('_6_', '_7_')}")
    read: list[str] = []
    scandir = os.scandir

    def note(found: int | str) -> Any:
        read.append(found if isinstance(found, str) else os.readlink(f"/proc/self/fd/{found}"))
        return scandir(found)

    monkeypatch.setattr(os, "scandir", note)
    for piece, found in (
        ("11022_7_2191279654", True),
        (NAME.replace("_6_", "_7_"), True),
        ("11022_8_2191279654", False),
    ):
        read.clear()
        assert (find_task(piece, [backend]) is not None) is found
        tasks = [os.path.normpath(path) for path in read if not path.endswith("/left")]
        assert f"{tmp_path}/mail/5" in tasks
        assert len(tasks) == len(set(tasks)), tasks
    read.clear()
    assert find_task(f"{tmp_path}/mail/{NAME}", [backend]) is not None
    assert f"{tmp_path}/mail" not in map(os.path.normpath, read)


def test_python_takes_short_ids(tmp_path: Path) -> None:
    """``read_task_file`` finds a task by a part of its id. Several tasks are an error, no task is ``{}``."""
    settings.configure(spoolers=[str(tmp_path / "mail")], durability="relaxed")
    one, two = Spooler.send_many([raw_message("one", priority=3), raw_message("two")])
    assert Spooler.read_task_file(short_id(one))["msg"] == "one"
    assert Spooler.read_task_file(short_id(two))["msg"] == "two"
    assert Spooler.read_task_file("11022_6_2191279654") == {}
    end = "_".join(one.rsplit("_", 2)[1:])
    Path(two).rename(f"{two.rsplit('_', 2)[0]}_{end}")
    with pytest.raises(AmbiguousId):
        Spooler.read_task_file(end)
