"""The table of verdicts, from a task's result to the state of the task."""

from typing import Any

import pytest

from ... import codec, dispatch, inspection
from ...backends.change import RunNow
from ...dispatch import Call
from ...errors import Dead
from ...message import Ack, Bury, Claim, Content, Envelope, Message, Outcome, Record, Retry, State, Verdict
from ...results import ResultDead, ResultProcessed, ResultRescheduled, ResultSkipped, TaskResult
from ...retry import MAX_CRASHES
from ...spooler import Spooler
from ...tasks import SpoolerTask
from ..exchange import content_of, sealed, settle_one
from .harness import TICK, BackendTests, Queue

__all__ = ["VerdictTests"]

_DELAY = 10.0
_RESULTS: dict[str, Any] = {
    "true": True,
    "false": False,
    "text": "a value",
    "none": None,
    "result": TaskResult(1),
    "processed": ResultProcessed(1),
    "skipped": ResultSkipped(1),
    "rescheduled": ResultRescheduled(1),
    "processed though": ResultProcessed(exception=OSError("on the way")),
    "rescheduled for": ResultRescheduled(exception=OSError("the cause")),
}


@Spooler.task(max_attempts=3, retry_delay=_DELAY, retry_backoff=2, retry_jitter=0)
def conformance_task(what: str) -> Any:
    """Return one of the results above, or raise."""
    if what not in _RESULTS:
        raise ValueError(what)
    return _RESULTS[what]


@Spooler.task(no_retry_for=KeyError)
def conformance_hopeless(how: str) -> Any:
    """End as dead, in one of three ways."""
    if how == "raised":
        raise Dead("no such customer")
    if how == "returned":
        return ResultDead("no such customer")
    raise KeyError(how)


@Spooler.task(max_attempts=1)
def conformance_odd() -> None:
    """Raise an error whose text few databases can store."""
    raise ValueError("a\0b \ud83d \ude00 \x1b[31m\n\0more")


@Spooler.task(max_attempts=2, retry_delay=_DELAY, retry_jitter=0, release_skipped=True)
def conformance_release(what: str) -> Any:
    """Return one of the results above. A skipped task is offered to other handlers."""
    return _RESULTS[what]


class ConformanceTask(SpoolerTask):
    """A task type that is processed if its payload says so."""

    type_id = "unspool_conformance"

    def process(self) -> TaskResult | bool | None:
        return True if self.payload else None


def _run(queue: Queue) -> tuple[Outcome, Claim]:
    """Run the next task as a worker does."""
    claim = queue.begin()
    call = dispatch.prepare(claim, content_of(claim), queue.clock(), lambda: 0.0)
    if isinstance(call, Outcome):
        outcome = call
    else:
        try:
            ending = dispatch.returned(call.task.process())
        except Exception as error:  # noqa: BLE001  the task under test may raise anything
            ending = dispatch.raised(error)
        outcome = dispatch.conclude(call.options, claim, ending, queue.clock(), lambda: 0.0)
    queue.end(claim, outcome.disposition)
    return outcome, claim


def _send(queue: Queue, message: Message) -> str:
    queue.clock.advance(TICK)
    return queue.backend.send([sealed(codec.encode(message))])[0]


def _run_until_dead(queue: Queue) -> tuple[Outcome, int]:
    """Run the only task whenever it is due. Return its last outcome and the number of runs."""
    for runs in range(1, 100):
        outcome, _ = _run(queue)
        if not isinstance(outcome.disposition, Retry):
            return outcome, runs
        queue.clock.advance(max(outcome.disposition.at - queue.clock(), 0))
    raise AssertionError("the task has run 99 times and has not ended")


class VerdictTests(BackendTests):
    """``dispatch`` and a backend together."""

    @pytest.mark.parametrize("what", ["true", "false", "text", "result", "processed", "processed though"])
    def test_processed(self, queue: Queue, what: str) -> None:
        """``True``, any other value except ``None``, and ``ResultProcessed`` end a task, which is deleted."""
        id = _send(queue, conformance_task.message(what))
        outcome, _ = _run(queue)
        assert (outcome.verdict, outcome.disposition) == (Verdict.PROCESSED, Ack())
        assert queue.state(id) is None

    @pytest.mark.parametrize("what", ["none", "skipped"])
    def test_skipped(self, queue: Queue, what: str) -> None:
        """``None`` and ``ResultSkipped`` end a task, which is deleted and does not run again."""
        id = _send(queue, conformance_task.message(what))
        outcome, _ = _run(queue)
        assert (outcome.verdict, outcome.disposition) == (Verdict.SKIPPED, Ack())
        assert queue.state(id) is None

    @pytest.mark.parametrize("what", ["raises", "rescheduled", "rescheduled for"])
    def test_rescheduled(self, queue: Queue, what: str) -> None:
        """An exception and ``ResultRescheduled`` run a task again after the back-off, and record the reason."""
        id = _send(queue, conformance_task.message(what))
        outcome, _ = _run(queue)
        assert outcome.verdict is Verdict.RESCHEDULED
        assert outcome.disposition == Retry(queue.clock() + _DELAY)
        assert outcome.error
        assert queue.state(id) is State.DEFERRED

    def test_dead_after_its_attempts(self, queue: Queue) -> None:
        """A failing task without attempts left becomes a dead letter with the error, after growing delays."""
        id = _send(queue, conformance_task.message("raises"))
        start = queue.clock()
        outcome, runs = _run_until_dead(queue)
        assert (outcome.verdict, runs) == (Verdict.DEAD, 3)
        assert queue.clock() >= start + _DELAY + 2 * _DELAY
        entry = inspection.find(queue.backend, id)
        assert entry is not None
        assert (entry.state, entry.attempts, entry.reason) == (State.DEAD, 3, "ValueError: raises")

    @pytest.mark.parametrize(
        ("how", "reason"),
        [
            ("raised", "unspool.errors.Dead: no such customer"),
            ("returned", "no such customer"),
            ("key", "KeyError: 'key'"),
        ],
    )
    def test_dead_at_once(self, queue: Queue, how: str, reason: str) -> None:
        """A task may end as dead itself, or by the type of its error, at its first attempt."""
        id = _send(queue, conformance_hopeless.message(how))
        outcome, _ = _run(queue)
        assert outcome.verdict is Verdict.DEAD
        entry = inspection.find(queue.backend, id)
        assert entry is not None
        assert (entry.state, entry.attempts, entry.reason) == (State.DEAD, 1, reason)

    def test_an_error_that_cannot_be_stored_as_it_is(self, queue: Queue) -> None:
        """A message with NUL, a lone surrogate and control characters is stored with escapes, as the reason and in
        history.
        """
        id = _send(queue, conformance_odd.message())
        claim = queue.begin()
        call = dispatch.prepare(claim, content_of(claim), queue.clock())
        assert isinstance(call, Call)
        with pytest.raises(ValueError, match="more") as caught:
            dispatch.run(call)
        outcome = dispatch.conclude(call.options, claim, dispatch.raised(caught.value), queue.clock())
        record = Record(claim.id, "conformance_odd", outcome.verdict, 1, queue.clock(), 0.5, 1, outcome.error)
        settle_one(queue.backend, claim, outcome.disposition, record)
        if not queue.backend.capabilities.records:
            queue.backend.record([record])
        entry = inspection.find(queue.backend, id)
        assert entry is not None
        assert (entry.state, entry.reason) == (State.DEAD, "ValueError: a\\x00b \\ud83d \\ude00 \\x1b[31m")
        assert inspection.runs(queue.backend) == [record]

    def test_left_for_another_handler(self, queue: Queue) -> None:
        """With ``release_skipped``, a skipped task is offered again after a back-off, and is dead in the end."""
        id = _send(queue, conformance_release.message("none"))
        outcome, _ = _run(queue)
        assert (outcome.verdict, outcome.disposition) == (Verdict.SKIPPED, Retry(queue.clock() + _DELAY))
        queue.clock.advance(_DELAY)
        outcome, _ = _run(queue)
        assert outcome.verdict is Verdict.DEAD
        assert queue.state(id) is State.DEAD

    @pytest.mark.parametrize("text", ["ucfg_unspool_conformance", "unspool_conformance"])
    @pytest.mark.parametrize(("payload", "verdict"), [(True, Verdict.PROCESSED), (None, Verdict.SKIPPED)])
    def test_task_types(self, queue: Queue, text: str, payload: Any, verdict: Verdict) -> None:
        """A message with or without the prefix goes to the subclass of that type."""
        _send(queue, Message(text, payload))
        assert _run(queue)[0].verdict is verdict

    def test_raw_message(self, queue: Queue) -> None:
        """Any other message goes to ``SpoolerTask`` itself and is processed."""
        _send(queue, Message("just a text", {"any": "payload"}))
        assert _run(queue)[0].verdict is Verdict.PROCESSED

    @pytest.mark.parametrize(
        ("message", "missing"),
        [
            (Message(codec.FCALL, {"func": "f", "arg": (), "kwg": {}}, "nowhere:missing"), "nowhere:missing"),
            (Message("ucfg_missing_type", None), "missing_type"),
        ],
    )
    def test_without_a_handler(self, queue: Queue, message: Message, missing: str) -> None:
        """A task that this program does not know is kept until a deploy adds its handler, then dead with the missing
        name."""
        id = _send(queue, message)
        outcome, _ = _run(queue)
        assert outcome.verdict is Verdict.RESCHEDULED
        assert isinstance(outcome.disposition, Retry)
        assert queue.state(id) is State.DEFERRED
        queue.clock.advance(outcome.disposition.at - queue.clock())
        assert _run_until_dead(queue)[0].verdict is Verdict.DEAD
        entry = inspection.find(queue.backend, id)
        assert entry is not None
        assert entry.state is State.DEAD
        assert missing in entry.reason

    def test_a_claim_without_a_handler_is_no_attempt(self, queue: Queue) -> None:
        """Claims by programs that do not know the task leave all attempts to the program that does."""
        id = _send(queue, Message("ucfg_missing_type", None))
        dues: list[float] = []
        for _ in range(3):
            outcome, claim = _run(queue)
            assert (claim.attempts, claim.unhandled, outcome.begun) == (1, len(dues), False)
            entry = inspection.find(queue.backend, id)
            assert entry is not None
            assert (entry.attempts, entry.state) == (0, State.DEFERRED)
            assert isinstance(outcome.disposition, Retry)
            dues.append(outcome.disposition.at - queue.clock())
            queue.clock.advance(dues[-1])
        assert dues[0] < dues[1] < dues[2]
        queue.backend.change(id, RunNow())
        claim = queue.begin()
        assert (claim.attempts, claim.crashes, claim.unhandled) == (1, 0, 0)
        queue.end(claim, Ack())

    def test_payload_of_an_unknown_class(self, queue: Queue) -> None:
        """A payload that needs a missing module is not damaged: the task is kept until a deploy adds the module."""
        id = queue.backend.send([sealed(Content({"msg": b"task"}, b"cnowhere_at_all\nMissing\n.", None, None))])[0]
        outcome, _ = _run(queue)
        assert outcome.verdict is Verdict.RESCHEDULED
        assert "nowhere_at_all" in outcome.error
        assert queue.state(id) is State.DEFERRED

    @pytest.mark.parametrize(
        "envelope",
        [
            sealed(Content({"msg": b"task"}, b"no pickle", None, None)),
            sealed(Content({"msg": b"task", "unspool_codec": b"json"}, b"{", None, None)),
            sealed(Content({"msg": b"task", "unspool_codec": b"no such codec"}, b"body", None, None)),
            sealed(Content({"msg": b"task"}, b"]\x94.", None, None)),
            sealed(Content({"msg": b"ucfg_fcall"}, b"", None, None)),
        ],
        ids=["pickle", "json", "codec", "no dict", "no call"],
    )
    def test_undecodable(self, queue: Queue, envelope: Envelope) -> None:
        """A task that cannot be decoded becomes corrupt with the reason, and does not block the others."""
        id = queue.backend.send([envelope])[0]
        _send(queue, conformance_task.message("true"))
        outcome, _ = _run(queue)
        assert outcome.verdict is Verdict.CORRUPT
        assert isinstance(outcome.disposition, Bury)
        entry = inspection.find(queue.backend, id)
        assert entry is not None
        assert (entry.state, entry.reason) == (State.CORRUPT, outcome.disposition.reason)
        assert _run(queue)[0].verdict is Verdict.PROCESSED

    def test_kills_its_worker(self, queue: Queue) -> None:
        """A task that repeatedly kills its worker becomes a dead letter without another run."""
        id = _send(queue, conformance_task.message("true"))
        for _ in range(MAX_CRASHES):
            queue.crash(queue.take()[0].ref)
        outcome, claim = _run(queue)
        assert (outcome.verdict, claim.crashes) == (Verdict.DEAD, MAX_CRASHES)
        entry = inspection.find(queue.backend, id)
        assert entry is not None
        assert (entry.state, entry.reason) == (State.DEAD, f"killed its worker {MAX_CRASHES} times")
