"""Backends that a program creates: the object is accepted wherever a name is."""

import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from unspool import Spooler, configure, inspection, instances, raw_message, registry
from unspool.errors import ConfigurationError, OptionRefused
from unspool.message import State
from unspool.testing import MemoryBackend, TemporarySpooler, run_all

ran: list[str] = []


@Spooler.task
def greet(name: str) -> bool:
    ran.append(name)
    return True


def plain() -> None:
    """No task yet."""


@pytest.fixture(autouse=True)
def own_instances(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove the instances of a test at its end."""
    monkeypatch.setattr(instances, "known", {})
    ran.clear()


@pytest.fixture
def backend() -> MemoryBackend:
    return MemoryBackend("mail")


def labels(backend: MemoryBackend) -> list[str]:
    return [entry.task for entry in inspection.tasks(backend)]


def test_a_spooler_of_a_backend(backend: MemoryBackend) -> None:
    """The spooler has the name of the backend. A task that is sent to it is found by its id, and runs."""
    spooler = Spooler(backend=backend)
    assert (spooler.name, repr(spooler)) == ("memory://mail", "Spooler('memory://mail')")
    assert spooler == Spooler("memory://mail")
    assert pickle.loads(pickle.dumps(spooler)) == spooler
    id = greet.using(spooler=spooler)("ann")
    assert id == "memory://mail/1"
    assert Spooler.read_task_file(id)["function"] == f"{__name__}:greet"
    assert Spooler.read_task_file("memory://mail/2") == {}
    assert [run.id for run in run_all(backend)] == [id]
    assert ran == ["ann"]


def test_a_decorator_of_a_backend(backend: MemoryBackend, own_registries: None) -> None:
    """A task of such a spooler is sent to it, also after it was pickled."""
    task = Spooler(backend=backend).task(plain)
    task()
    pickle.loads(pickle.dumps(task))()
    assert labels(backend) == [f"{__name__}:plain"] * 2


def test_where_a_name_stands(backend: MemoryBackend) -> None:
    """``using``, ``send_message_raw`` and ``send_many`` accept the backend itself."""
    other = MemoryBackend("other")
    greet.using(spooler=backend)("ann")
    pickle.loads(pickle.dumps(greet.using(spooler=backend)))("bob")
    Spooler.send_message_raw("raw", spooler=other)
    Spooler.send_many([raw_message("many")], spooler=other)
    assert labels(backend) == [f"{__name__}:greet"] * 2
    assert labels(other) == ["raw", "many"]


def test_configured(backend: MemoryBackend, tmp_path: Path) -> None:
    """Configured backends are found by base name, are the default, and are listed with other spoolers."""
    configure(spoolers=[backend, tmp_path / "dir", MemoryBackend()])
    names = ["memory://mail", str(tmp_path / "dir"), "memory://memory"]
    assert [one.name for one in Spooler.get_spoolers()] == names
    assert Spooler.get_by_basename("mail") == Spooler(backend=backend)
    ids = [greet("ann"), greet.using(spooler="memory")("bob"), greet.using(spooler="dir")("eve")]
    assert Spooler.get_tasks() == [ids[0], ids[2], ids[1]]
    assert registry.backend() is registry.backend("mail") is backend
    Spooler.set_period(7)
    assert backend.switch().period == 7
    assert Spooler.get_pids() == []


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), float("inf"), "5", None, True])
def test_an_invalid_period(backend: MemoryBackend, seconds: Any) -> None:
    """It is refused and changes nothing."""
    configure(spoolers=backend)
    Spooler.set_period(7)
    with pytest.raises(OptionRefused, match="is not a number of seconds above 0"):
        Spooler.set_period(seconds)
    assert backend.switch().period == 7


def test_one_alone(backend: MemoryBackend, tmp_path: Path) -> None:
    """A single backend or path need not be in a list. Its task is found by the short id."""
    configure(spoolers=tmp_path / "dir")
    assert [one.name for one in Spooler.get_spoolers()] == [str(tmp_path / "dir")]
    configure(spoolers=backend)
    greet("ann")
    assert Spooler.read_task_file("1")["spooler"] == "memory://mail"


def test_a_name_of_any_scheme(backend: MemoryBackend) -> None:
    """The name and the ids of a backend lead to the object without an entry point."""
    for name in ("ledger://db/mail", "/srv/ledger.db"):
        mine = Named(name)
        spooler = Spooler(backend=mine)
        assert Spooler(spooler.name) == spooler
        assert Spooler.read_task_file(greet.using(spooler=name)("ann"))["spooler"] == name
        configure(spoolers=[name])
        greet("bob")
        assert labels(mine) == [f"{__name__}:greet"] * 2


def test_a_later_backend_of_the_same_name(backend: MemoryBackend) -> None:
    """It replaces the earlier one, for all spoolers of this name and for lookups."""
    configure(spoolers=[backend])
    spooler = Spooler(backend=backend)
    first = greet("ann")
    assert registry.backend(spooler.name) is backend
    later = MemoryBackend("mail")
    Spooler(backend=later)
    assert registry.backend() is registry.backend("mail") is registry.backend(spooler.name) is later
    assert Spooler.read_task_file(first) == {}
    greet.using(spooler=spooler)("bob")
    assert [len(labels(one)) for one in (backend, later)] == [1, 1]


def test_other_settings_change_no_backend(backend: MemoryBackend) -> None:
    """The object stays the same when a setting changes, also for a ``memory://`` URL."""
    configure(spoolers=[backend, "memory://"])
    for name in ("mail", "memory"):
        greet.using(spooler=name)("ann")
        before = registry.backend(name)
        configure(period=5)
        assert registry.backend(name) is before
    assert len(Spooler.get_tasks()) == 2


@pytest.mark.parametrize("text", ["memory://", "memory://memory", "memory://?spooler=memory", "MEMORY:///memory"])
def test_a_url_of_memory(text: str) -> None:
    """``memory://NAME`` is a separate queue of this process for each name. The name may be omitted."""
    configure(spoolers=[text, "memory://other"])
    assert greet("ann") == "memory://memory/1"
    assert greet.using(spooler="memory://other")("bob") == "memory://other/1"
    assert registry.backend("memory").counts().tasks[State.READY] == 1


def test_a_signed_queue_of_memory() -> None:
    """With a secret key, the tasks of a ``memory://`` URL are signed."""
    configure(spoolers="memory://signed", secret_key="k" * 32)
    greet("ann")
    backend = registry.backend("signed")
    (entry,) = inspection.tasks(backend)
    found = inspection.read(backend, entry.id)
    assert found is not None
    assert found[1] is not None
    assert isinstance(backend, MemoryBackend)
    assert b"unspool_sig" in backend.stored(entry.id)


class Named(MemoryBackend):
    """A backend with any name. As an empty collection, it counts as false."""

    def __len__(self) -> int:
        return 0

    def __init__(self, name: Any) -> None:
        super().__init__()
        self.name = name


class Partial:
    """An object that has some of the members."""

    name = "partial://mail"

    def exchange(self, ends: object, refs: object) -> None: ...


BAD = {
    "number": (lambda: 5, "is 5; it must be a"),
    "class": (lambda: MemoryBackend, "is the class MemoryBackend; pass an instance of it"),
    "part": (Partial, "is a Partial, which lacks capabilities, .*counts, .*switch"),
    "no text": (lambda: Named(7), "is a Named with the name 7; a name is an absolute path or a URL"),
    "relative": (lambda: Named("mail"), "is a Named with the name 'mail'; a name is an absolute path or a URL"),
    "empty": (lambda: Named(""), "is a Named with the name ''; a name is an absolute path or a URL"),
    "password": (lambda: Named("x://a:b@c/mail"), "is a Named whose name has a user or password; leave them out"),
    "slash": (lambda: Named("x://mail/"), "is a Named with the name 'x://mail/'; a name does not end with a slash"),
}


@pytest.mark.parametrize("kind", BAD)
def test_what_is_no_backend(kind: str) -> None:
    """It is refused wherever a backend can be given, and nothing is changed."""
    make, text = BAD[kind]
    with pytest.raises(OptionRefused, match=f"^backend {text}"):
        Spooler(backend=make())  # type: ignore[call-overload]
    with pytest.raises(OptionRefused, match=f"^spooler {text}"):
        greet.using(spooler=make())
    with pytest.raises(OptionRefused, match=f"^spooler {text}"):
        Spooler.send_message_raw("m", spooler=make())  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match=f"^spoolers from configure.. cannot be used: a spooler {text}"):
        configure(spoolers=[MemoryBackend("mail"), make()])  # type: ignore[list-item]
    assert instances.known == {}
    assert Spooler.get_spoolers() == []


def test_a_name_beside_a_backend(backend: MemoryBackend) -> None:
    """A spooler has one name."""
    with pytest.raises(OptionRefused, match=r"got both a name \('x'\) and a backend, which has its own name; give one"):
        Spooler("x", backend=backend)  # type: ignore[call-overload]


@pytest.mark.parametrize("name", ["", None, 5])
def test_a_memory_backend_without_a_name(name: Any) -> None:
    """The name must be a string."""
    with pytest.raises(OptionRefused, match=r"name of a memory backend is .*; it must be text, such as 'mail'"):
        MemoryBackend(name)


def test_two_of_one_name(backend: MemoryBackend) -> None:
    """Two backends of one name in one list are an error. An error in another setting adds no backend."""
    configure(spoolers=[backend])
    with pytest.raises(ConfigurationError, match="two backends are named memory://mail; give one of them another name"):
        configure(spoolers=[MemoryBackend("mail"), MemoryBackend("mail")])
    with pytest.raises(ConfigurationError, match="period"):
        configure(spoolers=[MemoryBackend("mail")], period=-1)
    assert registry.backend() is backend
    configure(spoolers=[backend, backend])
    assert registry.backend() is backend


def test_nothing_is_forwarded_to_memory() -> None:
    """There, the tasks would be lost at the end of the forwarding process."""
    with pytest.raises(ConfigurationError, match="cannot be forwarded to memory"):
        configure(forward="memory://")


def test_the_fixture_catches_what_is_sent_to_a_backend(
    backend: MemoryBackend, unspool_spooler: TemporarySpooler
) -> None:
    """A test with the fixture sends nothing to the program's own backends."""
    greet.using(spooler=Spooler(backend=backend))("ann")
    assert labels(backend) == []
    (spooled,) = unspool_spooler.tasks("mail")
    assert (spooled.task, spooled.spooler) == (f"{__name__}:greet", "memory://mail")


APP = """
from unspool import Spooler
from unspool.testing import MemoryBackend

@Spooler(backend=MemoryBackend("own")).task
def greet(name):
    return True
"""


@pytest.mark.parametrize(
    ("command", "name"),
    [
        ("ls", "mail"),
        ("status", "mail"),
        ("run app", "mail"),
        ("pause", "mail"),
        ("show memory://mail/1", "mail"),
        ("move memory://other dir/", "other"),
        ("enqueue app:greet 1", "mail"),
        ("enqueue app:greet 1 --app app", "own"),
        ("enqueue app:greet 1 --spooler memory://other", "other"),
    ],
)
def test_a_command_sees_no_memory(command: str, name: str, tmp_path: Path) -> None:
    """Each command says so, instead of showing an empty queue or losing a task."""
    (tmp_path / "app.py").write_text(APP)
    done = subprocess.run(
        [sys.executable, "-m", "unspool", *command.split()],
        cwd=tmp_path,
        env=os.environ | {"UNSPOOL_SPOOLERS": "memory://mail"},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 2, done.stdout
    assert f"spooler memory://{name} is in the memory of one process" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_a_memory_backend_has_no_workers(backend: MemoryBackend) -> None:
    """The error says how to run its tasks instead."""
    with pytest.raises(OptionRefused, match=r"no worker process can run them; run them .*run_all"):
        backend.register("worker")
