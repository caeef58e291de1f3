"""The verdict of a soak detects each kind of broken promise, and accepts what is documented."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.soak import oracle
from tests.soak.marks import Mark
from tests.soak.oracle import Line
from tests.soak.verdict import AT_ONCE, Left, Verdict, judge

KEY = "k1:ok"
NOTHING = Left(set(), set(), set(), [])


def _lines(*texts: str) -> list[Line]:
    """Return lines from ``AT WORD REST``."""
    lines = []
    for text in texts:
        at, word, *rest = text.split()
        lines.append(Line(float(at), word, tuple(rest)))
    return lines


def _judge(*texts: str, left: Left = NOTHING) -> Verdict:
    return judge(_lines("0 ack k1:ok /mail/one", *texts), left)


def test_a_task_that_ends_once_breaks_no_promise() -> None:
    """One run that ends well gives an empty verdict."""
    verdict = _judge("1 start k1:ok 7", "2 end k1:ok 7")
    assert verdict == Verdict(acknowledged=1, ended=1)


def test_a_task_that_is_nowhere_is_lost() -> None:
    """The task has not run, is not waiting, was not set aside and not removed."""
    assert _judge().lost == [KEY]
    assert _judge("1 start k1:ok 7").lost == [KEY]


def test_a_removed_task_is_not_lost_unless_it_was_kept() -> None:
    """A command that reports the removal explains it, by the key or by the id. One that left the task does not."""
    assert _judge("1 remove k1:ok").removed == 1
    assert _judge("1 removed /mail/.unspool/dead/one").removed == 1
    assert _judge("1 remove k1:ok", "2 kept k1:ok").lost == [KEY]


def test_an_unknown_id_that_was_removed_accounts_for_one_task_that_failed() -> None:
    """A task that was moved and then died has an id that no listing has shown yet."""
    failed, removed = ["1 start k1:ok 7", "2 fail k1:ok 7 ValueError"], "9 removed nats://x/mail/moved-12"
    other = ["1 ack k2:ok two", "3 start k2:ok 7", "4 fail k2:ok 7 ValueError"]
    assert _judge(*failed, removed).removed == 1
    assert _judge(*failed, removed, *other).lost == ["k2:ok"]
    killed = "1 start k1:ok 7"
    assert _judge(killed, removed).removed == 1
    assert _judge(removed).lost == [KEY]


def test_a_run_may_overrun_its_limit_after_its_end() -> None:
    """The task records its end before it returns. The log of the worker then says that it overran."""
    lines = ["1 start k1:limit 7", "1.2 end k1:limit 7", "6 start k1:limit 7", "6.1 end k1:limit 7"]
    lines = ["0 ack k1:limit /mail/two", *lines]
    assert len(_judge(*lines).unexplained) == 1
    verdict = judge(_lines(*lines), NOTHING, overruns={"two": 1})
    assert verdict.causes == {"it overran its time limit after it had noted its end": 1}
    failed = ["2 start k1:limit 7", "2.3 fail k1:limit 7 TaskTimeout"]  # this is the overrun that was logged
    assert len(judge(_lines(*lines[:3], *failed, *lines[3:]), NOTHING, overruns={"two": 1}).unexplained) == 1


def test_what_is_left_is_waiting_aside_or_taken() -> None:
    """Each task that has not ended is searched among those that are left."""
    assert _judge(left=NOTHING._replace(waiting={KEY})).waiting == [KEY]
    assert _judge(left=NOTHING._replace(aside={KEY})).aside == 1
    assert _judge(left=NOTHING._replace(taken={KEY})).removed == 1


@pytest.mark.parametrize("state", ["waiting", "aside"])
def test_what_has_ended_and_is_listed_is_a_ghost(state: str) -> None:
    """A task that has ended is no longer listed."""
    assert _judge("1 start k1:ok 7", "2 end k1:ok 7", left=NOTHING._replace(**{state: {KEY}})).ghosts == [KEY]


def test_a_difference_between_counts_and_listing_is_a_ghost() -> None:
    """Counts and listings agree."""
    assert _judge("1 start k1:ok 7", "2 end k1:ok 7", left=NOTHING._replace(oddities=["1, 0"])).ghosts == ["1, 0"]


def test_a_second_run_needs_a_cause() -> None:
    """A run that ended well is not followed by another one."""
    verdict = _judge("1 start k1:ok 7", "2 end k1:ok 7", "5 start k1:ok 8", "6 end k1:ok 8")
    assert len(verdict.unexplained) == 1
    assert not verdict.at_once


_CARRIED = "a killed move was repeated, because its destination had been replaced"


@pytest.mark.parametrize(
    ("lines", "cause"),
    [
        (["2.5 kill 7"], "its process was killed"),
        (["3.5 kill 7"], ""),
        (["2.5 kill 6"], ""),
        (["2.5 cutoff 7", "2.6 cutoff 7"], "the server lost its claim"),
        (["0.2 cutoff 7", "0.4 cutoff 7"], "the server lost its claim"),
        (["3.5 cutoff 7", "3.6 cutoff 7"], ""),
        (["2.5 cutoff 6", "2.6 cutoff 6"], ""),
        (["2.5 crash", "4 crash"], "the server lost its claim"),
        (["3.5 crash", "4 crash"], ""),
        (["1.5 error 7", "1.7 error 7"], "disk errors in its process"),
        (["1.5 error 6", "1.7 error 6"], ""),
        (["4 cut"], "a power cut"),
        (["3 retry k1:ok", "4 retry k1:ok"], ""),
        (["0.5 carry", "0.9 carry", "3 forgot", "4 carry", "4.5 carry"], _CARRIED),
        (["0.5 carry", "0.9 carry", "4 carry", "4.5 carry"], ""),
        (["3 forgot", "4 carry", "4.5 carry"], ""),
        (["0.5 carry", "0.9 carry", "3 forgot"], ""),
    ],
)
def test_causes_have_windows(lines: list[str], cause: str) -> None:
    """A fault explains only the runs that it can have affected."""
    verdict = _judge("1 start k1:ok 7", "2 end k1:ok 7", *lines, "5 start k1:ok 8", "6 end k1:ok 8")
    assert list(verdict.causes) == [cause] * bool(cause)
    assert len(verdict.unexplained) == (not cause)


def test_a_run_that_fails_is_repeated_only_if_it_was_meant_to_fail() -> None:
    """A kind of task fails by its own exceptions. Any other exception has another cause."""
    for error, cause in (("ValueError", ["failed as designed"]), ("OSError", [])):
        verdict = judge(
            _lines("0 ack k1:again /one", "1 start k1:again 7", f"2 fail k1:again 7 {error}", "5 start k1:again 8",
                   "6 end k1:again 8"),
            NOTHING,
        )  # fmt: skip
        assert list(verdict.causes) == cause


def test_a_run_beside_one_that_overran_its_limit_may_be_repeated() -> None:
    """The worker of a run that cannot be interrupted is killed with all its runs."""
    lines = ["0 start k2:stuck 7", "1 start k1:ok 7", "5 start k1:ok 8", "6 end k1:ok 8"]
    assert list(_judge(*lines).causes) == ["its process was killed for a time limit"]
    assert len(_judge(*lines[1:]).unexplained) == 1


def test_two_runs_at_once_are_found_by_their_lock_and_by_their_times() -> None:
    """Simultaneous runs are accepted if the server had lost the claim of the first, and are counted separately."""
    first, after = ["1 start k1:ok 7"], ["5 start k1:ok 8", "6 end k1:ok 8"]
    assert len(_judge(*first, *after, "7 end k1:ok 7").at_once) == 1
    assert len(_judge(*first, "5 start k1:ok 8", "5 twice k1:ok 8", "6 end k1:ok 8").at_once) == 1
    verdict = _judge(*first, "2 cutoff 7", "2.1 cutoff 7", *after, "7 end k1:ok 7")
    assert (verdict.at_once, verdict.at_once_cut_off) == ([], 1)


def test_a_refused_task_that_runs_is_told() -> None:
    """A call that raised has sent nothing."""
    lines = _lines("0 refused SpoolerUnusable k3:ok k4:ok", "1 start k3:ok 7", "2 end k3:ok 7")
    assert judge(lines, NOTHING).refused_run == ["k3:ok"]


def test_a_run_begins_before_it_waits_for_the_mark_of_another_one(tmp_path: Path) -> None:
    """The end of the other run, for which it waits, is then within both."""
    log, marks = tmp_path / "log", tmp_path / "marks"
    environment = os.environ | {"SOAK_LOG": str(log), "SOAK_MARKS": str(marks)}
    run = "from tests.soak.app import running\nwith running('k1:ok'): pass"
    beside = Mark(str(marks), KEY)
    subprocess.run([sys.executable, "-c", run], env=environment, check=True)
    beside.close()
    start, twice, end = oracle.read(log)
    assert (start.word, twice.word, end.word) == ("start", "twice", "end")
    assert twice.at - start.at > 0.4


def test_a_directory_stores_the_end_of_a_run_at_once() -> None:
    """There, a kill half a second after the end is not a cause."""
    lines = _lines("0 ack k1:ok /mail/one", "1 start k1:ok 7", "2 end k1:ok 7", "2.5 kill 7", "5 start k1:ok 8")
    assert not judge(lines, NOTHING).unexplained
    assert len(judge(lines, NOTHING, AT_ONCE).unexplained) == 1


def test_a_task_fails_as_often_as_it_may() -> None:
    """It may fail more often only if it was retried, or if a failure may not have been counted."""
    runs = [text for at in (1, 2, 3) for text in (f"{at} start k1:hopeless 7", f"{at}.1 fail k1:hopeless 7 ValueError")]
    for lines, beyond in [
        ([], 1),
        (["2.5 retry k1:hopeless", "2.6 retry k1:hopeless"], 0),
        (["2.5 retry *", "2.6 retry *"], 0),
        (["3.5 retry *", "3.6 retry *"], 1),
        (["2.5 cut", "2.6 cut"], 0),
        (["1.9 fault 4 disk_full", "2.5 fault 4 over"], 0),
        (["1.9 fault 4 frozen", "2.5 fault 4 over"], 1),
        (["1.9 error 7 fsync", "2.5 error 7 fsync"], 0),
        (["1.9 error 8 fsync", "2.5 error 8 fsync"], 1),
    ]:
        found = judge(sorted(_lines(*runs, *lines), key=lambda line: line.at), NOTHING)
        assert len(found.beyond) == beyond, lines


def test_a_task_whose_sender_was_killed_may_not_wait_either() -> None:
    """It is in the queue, whether the call had returned or not."""
    assert judge([], NOTHING._replace(waiting={KEY})).waiting == [KEY]


@pytest.mark.parametrize("state", ["waiting", "aside"])
def test_a_refused_task_that_is_listed_is_told(state: str) -> None:
    """It was sent, although it has not run."""
    lines = _lines("0 refused SpoolerUnusable k1:ok")
    assert judge(lines, NOTHING._replace(**{state: {KEY}})).refused_run == [KEY]


def test_marks_know_of_other_runs(tmp_path: Path) -> None:
    """The mark of a task is free again when its run has ended, and shows that there was one."""
    path = str(tmp_path / "marks")
    first = Mark(path, KEY)
    beside = Mark(path, KEY)
    other = Mark(path, "k2:ok")
    assert (first.alone, first.first) == (True, True)
    assert (beside.alone, beside.first) == (False, False)
    assert (other.alone, other.first) == (True, True)
    first.close()
    assert Mark(path, KEY).alone
