"""``unspool move``: what is moved, what stays, and what is reported."""

import json
import os
import pickle
from pathlib import Path

import pytest

from unspool import Spooler, inspection, settings, wire
from unspool.backends.change import RunNow
from unspool.backends.spool import SpoolBackend
from unspool.functions import call_message
from unspool.message import Claim, Retry, State
from unspool.signing import Signer
from unspool.testing.exchange import claim_one, settle_one

from ..spool.sweep import sweep
from .conftest import KEY, Ends, fail, ran, work


@pytest.mark.parametrize(
    ("source", "destination"),
    [("spool", "pg"), ("pg", "spool"), ("spool", "other"), ("spool", "nats"), ("nats", "spool")],
)
def test_all_goes_along(ends: Ends, source: str, destination: str) -> None:
    """Priorities, due times, attempts and reasons are kept, and so is the order. The counts are by state."""
    there = ends.backend(source).name
    fail.using(spooler=there)("dead")
    ends.burst(source)
    for name, priority in [("c", None), ("a", 1), ("d", None), ("b", 1)]:
        work.using(spooler=there, priority=priority)(name)
    before = {(one.task, one.priority, one.reason, one.attempts) for one in inspection.tasks(ends.backend(source))}
    said = ends.move(source, destination)
    assert said["moved"] == {"ready": 4, "deferred": 0, "dead": 1, "corrupt": 0}
    assert (said["source"], said["stayed"]) == (there, [])
    assert {
        (one.task, one.priority, one.reason, one.attempts) for one in inspection.tasks(ends.backend(destination))
    } == before
    ran.clear()
    ends.burst(destination)
    assert list(ran) == ["a", "b", "c", "d"]


def test_a_dead_task_is_retried_at_its_new_place(ends: Ends) -> None:
    """A retried task runs there, with its attempts reset."""
    fail.using(spooler=ends.backend("spool").name)("dead")
    ends.burst("spool")
    ends.move("spool", "pg")
    (entry,) = inspection.tasks(ends.backend("pg"))
    assert (entry.state, entry.attempts) == (State.DEAD, 1)
    ends.backend("pg").change(entry.id, RunNow())
    assert ends.burst("pg") == ["dead"]
    assert ran["dead"] == 2


def test_what_runs_stays(ends: Ends) -> None:
    """A running task stays and is reported, with status 1. Afterwards, it is moved with its attempt."""
    backend = ends.backend("spool")
    work.using(spooler=backend.name)("runs")
    (entry,) = inspection.tasks(backend)
    claim = claim_one(backend, os.path.basename(entry.id))
    assert isinstance(claim, Claim)
    pid = os.fork()
    if pid == 0:  # the lock is this process's; its child has none, and moves
        try:
            os._exit(0 if ends.command("move", "spool", "pg")[0] == 1 else 2)
        finally:
            os._exit(3)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert backend.counts().tasks[State.RUNNING] == 1
    settle_one(backend, claim, Retry(entry.due))
    assert ends.move("spool", "pg")["moved"]["ready"] == 1
    (entry,) = inspection.tasks(ends.backend("pg"))
    assert entry.attempts == 1


def test_chosen_states(ends: Ends) -> None:
    """With --state, the others stay without a report. --dry-run counts, and changes nothing."""
    there = ends.backend("spool").name
    fail.using(spooler=there)("dead")
    ends.burst("spool")
    work.using(spooler=there)("ready")
    assert ends.move("spool", "pg", "--dry-run")["moved"] == {"ready": 1, "deferred": 0, "dead": 1, "corrupt": 0}
    assert ends.counts("spool") == {State.READY: 1, State.DEAD: 1}
    ends.move("spool", "pg", "--state", "dead")
    assert (ends.counts("spool"), ends.counts("pg")) == ({State.READY: 1}, {State.DEAD: 1})


def test_states_chosen_by_the_environment(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    """The variable lists several states, separated by commas, like the variables of other commands."""
    there = ends.backend("spool").name
    fail.using(spooler=there)("dead")
    ends.burst("spool")
    work.using(spooler=there)("ready")
    monkeypatch.setenv("UNSPOOL_MOVE_STATE", "dead,corrupt")
    ends.move("spool", "pg")
    assert (ends.counts("spool"), ends.counts("pg")) == ({State.READY: 1}, {State.DEAD: 1})


def test_what_is_said(ends: Ends) -> None:
    """The output is one line."""
    work.using(spooler=ends.backend("spool").name)("one")
    assert ends.command("move", "spool", "pg")[:2] == (0, "moved 1 task: 1 ready\n")
    assert ends.command("move", "spool", "pg")[:2] == (0, "moved 0 tasks\n")


def test_signed_for_the_new_name(ends: Ends) -> None:
    """Between queues with different names, tasks are signed again, so that workers there run them."""
    work.using(spooler=ends.backend("spool").name)("one")
    ends.move("spool", "other")
    (file,) = Path(ends.names["other"]).glob("uwsgi_*")
    assert b"unspool_queue\x05\x00other" in file.read_bytes()
    assert ends.burst("other") == ["processed"]


def test_without_the_key(ends: Ends) -> None:
    """A task that is signed for one name is not moved to another without the key. To the same name, it is moved
    unchanged.
    """
    work.using(spooler=ends.backend("spool").name)("one")
    settings.configure(secret_key=None)
    said = ends.move("spool", "other", status=1)
    assert "signed for the queue 'spool'" in said["stayed"][0]["reason"]
    assert ends.counts("spool") == {State.READY: 1}
    ends.names["other"] = str(ends.root / "copy" / "spool")
    data = next(Path(ends.names["spool"]).glob("uwsgi_*")).read_bytes()
    ends.move("spool", "other")
    assert next(Path(ends.names["other"]).glob("uwsgi_*")).read_bytes() == data
    settings.configure(secret_key=KEY)
    assert ends.burst("other") == ["processed"]


@pytest.mark.parametrize("damage", ["unsigned", "torn", "forged"])
def test_what_is_no_task_of_ours_stays(ends: Ends, damage: str) -> None:
    """Unsigned, damaged and forged tasks stay unchanged and are reported, with status 1. The others are moved."""
    there = ends.backend("spool").name
    if damage == "unsigned":
        settings.configure(secret_key=None)
    id = work.using(spooler=there)("bad")
    settings.configure(secret_key=KEY)
    data = Path(id).read_bytes()
    if damage == "torn":
        Path(id).write_bytes(data[:-3])
    elif damage == "forged":
        data = data.replace(b"unspool_sig+\x00", b"unspool_sig+\x00A")[: len(data)]
        Path(id).write_bytes(data)
    os.utime(id, (1, 1))
    work.using(spooler=there)("good")
    later = SpoolBackend(there, signed=True, clock=lambda: 4e9)  # no process is still writing it
    settings.configure(secret_key=KEY, spoolers=[later])
    said = ends.move("spool", "pg", status=1)
    assert [one["id"] for one in said["stayed"]] == [id]
    assert said["moved"]["ready"] == 1
    assert ends.counts("spool")[State.READY] == 1
    if damage != "unsigned":
        assert ends.move("spool", "pg", "--sign-unsigned", status=1)["moved"]["ready"] == 0
    else:
        assert "unsigned" in said["stayed"][0]["reason"]
        ends.move("spool", "pg", "--sign-unsigned")
        ends.burst("pg")
        assert ran == {"good": 1, "bad": 1}


def test_what_uwsgi_left(ends: Ends) -> None:
    """Unsigned messages of uwsgidecorators and uwsgiconf run in PostgreSQL after a person has vouched for them."""
    spool = Path(ends.names["spool"])
    spool.mkdir(mode=0o700)
    call = {"spooler": None, "priority": None, "postpone": None, "func": "work", "arg": ("of uwsgiconf",), "kwg": {}}
    vars = {"ud_spool_func": b"work", "args": pickle.dumps(("of uwsgidecorators",)), "kwargs": pickle.dumps({})}
    for number, (vars_, body) in enumerate([
        (vars | {"ud_spool_ret": b"-2"}, b""),
        ({"msg": b"ucfg_fcall"}, pickle.dumps({"payload": call})),
        ({}, pickle.dumps({"msg": "ucfg_fcall", "payload": call | {"arg": ("of uwsgiconf, large",)}})),
    ]):  # fmt: skip
        block = b"".join(len(part).to_bytes(2, "little") + part for key, value in vars_.items()
                         for part in (key.encode(), value))  # fmt: skip
        part = spool / "4" if number == 1 else spool
        part.mkdir(exist_ok=True)
        file = part / f"uwsgi_spoolfile_on_host_1_{number}_99_1500000000_{number:06d}"
        file.write_bytes(b"\x11" + len(block).to_bytes(2, "little") + b"\x00" + block + body)
        os.utime(file, (1500000000,) * 2)
    assert len(ends.move("spool", "pg", status=1)["stayed"]) == 3
    assert ends.move("spool", "pg", "--sign-unsigned")["moved"]["ready"] == 3
    assert set(ends.burst("pg")) == {"processed"}
    assert ran == {"of uwsgidecorators": 1, "of uwsgiconf": 1, "of uwsgiconf, large": 1}


def test_unsigned_pickles_do_not_go_to_a_server(ends: Ends) -> None:
    """Without a key, pickles stay, and both solutions are named. JSON tasks are moved."""
    settings.configure(secret_key=None)
    there = ends.backend("spool").name
    work.using(spooler=there)("pickled")
    Spooler.send_many([call_message("moving:work", ("plain",), {}, None, None, "json")], spooler=there)
    said = ends.move("spool", "pg", status=1)
    assert said["moved"]["ready"] == 1
    assert "UNSPOOL_SECRET_KEY" in said["stayed"][0]["reason"]
    assert 'serializer="json"' in said["stayed"][0]["reason"]


def test_on_the_way_to_another_place(ends: Ends) -> None:
    """A task that one destination has accepted is not given to another. The report names the first one, and moving
    there completes it.
    """
    work.using(spooler=ends.backend("spool").name)("one")
    ends.kill("carry.noted", "move", "spool", "pg")
    said = ends.move("spool", "other", status=1)
    assert f"is being moved to {ends.pg}" in said["stayed"][0]["reason"]
    assert ends.counts("spool") == {State.READY: 1}
    ends.move("spool", "pg")
    assert ends.burst("pg") == ["processed"]


def test_reasons_survive_a_killed_move(ends: Ends) -> None:
    """A supervisor that sweeps leftovers of dead processes does not remove the reason of a task in transfer."""
    fail.using(spooler=ends.backend("spool").name)("dead")
    ends.burst("spool")
    (note,) = Path(ends.names["spool"]).glob(".unspool/dead/*.reason")
    os.utime(note, (1, 1))
    ends.kill("carry.begun", "move", "spool", "pg")
    sweep(ends.names["spool"])
    ends.move("spool", "pg")
    (entry,) = inspection.tasks(ends.backend("pg"))
    assert (entry.reason, entry.attempts) == ("ValueError: no luck with dead", 1)


def test_a_destination_that_is_away(ends: Ends) -> None:
    """The status is 3, and no task has moved."""
    there = ends.backend("spool").name
    work.using(spooler=there)("one")
    ends.names["pg"] = "postgresql://127.0.0.1:1/app?spooler=mail"
    status, _, complaints = ends.command("move", "spool", ends.names["pg"])
    assert status == 3
    assert "cannot be reached" in complaints
    assert ends.counts("spool") == {State.READY: 1}


@pytest.mark.parametrize(
    ("words", "status", "part"),
    [
        (["spool"], 2, "Missing argument"),
        (["spool", "spool"], 2, "are the same"),
        (["nowhere/at/all", "spool"], 1, "does not exist"),
        (["spool", "mysql://db/app"], 2, "not the URL of a spooler"),
        (["spool", "pg", "--state", "running"], 2, "running"),
    ],
)
def test_bad_usage(ends: Ends, words: list[str], status: int, part: str) -> None:
    """Each mistake has its line and status."""
    found, _, complaints = ends.command("move", *words)
    assert found == status
    assert part in complaints


def test_a_full_queue(ends: Ends) -> None:
    """More tasks than one batch holds are moved, each once."""
    names = [(f"{number}",) for number in range(450)]
    settings.configure(durability="relaxed")
    work.using(spooler=ends.backend("spool").name).enqueue_many(names)
    assert ends.move("spool", "pg")["moved"]["ready"] == 450
    ends.burst("pg")
    assert ran == {name: 1 for (name,) in names}
    assert json.loads(ends.command("status", "--json", "--spooler", "spool")[1])["spoolers"][0]["ready"] == 0


def test_large_tasks(ends: Ends) -> None:
    """Tasks of megabytes are moved a few at a time."""
    there = ends.backend("spool").name
    names = [str(number) * 9_000_000 for number in range(5)]
    for name in names:
        work.using(spooler=there)(name)
    assert ends.move("spool", "pg")["moved"]["ready"] == 5
    ends.burst("pg")
    assert ran == dict.fromkeys(names, 1)


def test_a_foreign_task_stays_foreign() -> None:
    """A task of another program that a person has vouched for is decoded as one without a seal."""
    old, new = Signer([KEY], "old"), Signer([KEY], "new")
    foreign = b"\x11" + (9).to_bytes(2, "little") + b"\x00\x03\x00key\x02\x00xy"
    signed = wire.readdress(foreign, "new", old, new, vouch=True)
    for signer in (new, None):
        envelope = wire.load(signed, signer)
        assert (dict(envelope.vars), envelope.sealed) == ({"key": b"xy"}, False)
