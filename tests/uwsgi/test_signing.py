"""Secret keys inside real uWSGI: there, too, an unsigned task is never decoded."""

import pickle
import struct

import pytest

from unspool import codec, inspection, wire
from unspool.message import Message, State
from unspool.signing import Signer

from .instance import Instance

KEY, OTHER = "k" * 32, "o" * 32
APP = """
from unspool import Spooler

@Spooler.task
def work(name):
    note("ran", name)
    return True

@Spooler.task(priority=3)
def urgent(name):
    note("ran", name)
    return True
"""


class Bomb:
    """An object that tells the test when it is unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return open, (self.path, "w")


def as_uwsgi(vars: dict[str, bytes], body: bytes) -> bytes:
    """Write a file as uWSGI itself does for uwsgiconf or uwsgidecorators."""
    packed = [struct.pack("<H", len(part)) + part for key, value in vars.items() for part in (key.encode(), value)]
    head = b"".join(packed)
    return struct.pack("<BHB", 17, len(head), 0) + head + body


def test_signed_tasks_run(instance: Instance) -> None:
    """Tasks that the program sends inside uWSGI and those of other processes run, with and without a priority, signed
    with any of the keys. A wakefile needs no signature.
    """
    instance.write_app(APP)
    instance.env["UNSPOOL_SECRET_KEY"] = f"{KEY},{OTHER}"
    instance.start()
    instance.do("work('inside')")
    instance.do("urgent('urgent inside')")
    instance.call("work('outside')")
    instance.call("urgent('urgent outside')")
    instance.env["UNSPOOL_SECRET_KEY"] = OTHER
    instance.call("work('other key')")
    instance.wait(lambda: len(instance.lines()) == 5)
    assert {line.removeprefix("ran ") for line in instance.lines()} == {
        "inside",
        "urgent inside",
        "outside",
        "urgent outside",
        "other key",
    }
    assert instance.backend.counts().tasks[State.CORRUPT] == 0


def test_unsigned_and_forged_tasks_are_set_aside(instance: Instance) -> None:
    """Messages of uwsgiconf, of uwsgidecorators and of the program itself, which are unsigned; a task of a process
    without a key, of one with another key, of another queue, and an altered one: each is set aside with the reason, and
    not decoded.
    """
    instance.write_app(APP)
    bomb = pickle.dumps(Bomb(str(instance.root / "exploded")))
    own, other, elsewhere = Signer([KEY], "myspooler"), Signer([OTHER], "myspooler"), Signer([KEY], "other")
    sent = codec.encode(Message("ucfg_fcall", None, "app:work"))
    dropped = {
        "uwsgiconf": (as_uwsgi({"msg": b"ucfg_fcall"}, bomb), "unsigned"),
        "decorators": (as_uwsgi({"ud_spool_func": b"work", "args": bomb, "kwargs": bomb}, b""), "unsigned"),
        "own": (as_uwsgi({"colour": b"blue"}, bomb), "unsigned"),
        "keyless": (wire.dump(sent.vars, bomb, None), "unsigned"),
        "key": (wire.dump(sent.vars, bomb, other), "signature does not match"),
        "queue": (wire.dump(sent.vars, bomb, elsewhere), "signed for the queue 'other'"),
    }
    signature = wire.load_vars(wire.dump(sent.vars, b"", own)).vars["unspool_sig"]
    forged = wire.dump({**sent.vars, "unspool_queue": b"myspooler", "unspool_sig": signature}, bomb, None)
    dropped["body"] = (forged, "signature does not match")
    instance.env["UNSPOOL_SECRET_KEY"] = KEY
    instance.start()
    ids = {name: str(instance.drop(name, content)) for name, (content, _) in dropped.items()}
    instance.wait(lambda: instance.backend.counts().tasks[State.CORRUPT] == len(dropped))
    for name, (_, reason) in dropped.items():
        entry = inspection.find(instance.backend, ids[name])
        assert entry is not None
        assert reason in entry.reason
        assert instance.verdicts(ids[name]) == ["corrupt"]
    assert not (instance.root / "exploded").exists()
    instance.do("work('still working')")
    instance.wait_for_line("ran still working")


@pytest.mark.parametrize("key", ["", "short"])
def test_an_unusable_key_runs_nothing(instance: Instance, key: str) -> None:
    """The server starts, for its other work. Sending raises, no task is run or set aside, and the log says why,
    once.
    """
    instance.write_app(APP)
    instance.env["UNSPOOL_SECRET_KEY"] = key
    instance.start()
    with pytest.raises(RuntimeError, match="ConfigurationError: secret_key from UNSPOOL_SECRET_KEY"):
        instance.do("work('refused')")
    path = instance.drop("left", as_uwsgi({"msg": b"ucfg_fcall"}, b""))
    instance.wait(lambda: "no task is run: secret_key from UNSPOOL_SECRET_KEY" in instance.log.read_text())
    assert path.exists()
    assert instance.log.read_text().count("no task is run") == 1
    assert instance.lines() == []
