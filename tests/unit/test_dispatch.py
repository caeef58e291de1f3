"""From a claim to an outcome: the table of verdicts, one case per row."""

import inspect
import pickle
from collections.abc import Iterator
from typing import Any

import pytest

from unspool import (
    Dead,
    ResultDead,
    ResultProcessed,
    ResultRescheduled,
    ResultSkipped,
    Spooler,
    SpoolerTask,
    TaskResult,
    codec,
    dispatch,
)
from unspool.dispatch import Call, Ending, Unfinished
from unspool.errors import OptionRefused, PayloadRefused, TaskTimeout
from unspool.functions import call_message
from unspool.message import NOTHING, Ack, Bury, Claim, Content, Message, Outcome, Retry, Verdict, reason_of
from unspool.options import TaskOptions
from unspool.retry import MAX_CRASHES, RetryPolicy
from unspool.tasks import SpoolerFunctionCallTask, spooler_task_types

NOW = 1_900_000_000.0
OPTIONS = TaskOptions(retry=RetryPolicy(max_attempts=3, delay=10, backoff=2, jitter=0))


@Spooler.task(max_attempts=3, retry_delay=10, retry_jitter=0)
def echo(result: Any = True, *, error: BaseException | None = None) -> Any:
    """Return the argument, or raise it."""
    if error is not None:
        raise error
    return result


@Spooler.task(max_attempts=1)
def once() -> bool:
    """May run once."""
    return True


@Spooler.task
async def aecho(result: Any = True) -> Any:
    """Return the argument in a coroutine, or raise it."""
    return result


@pytest.fixture(autouse=True)
def types() -> Iterator[None]:
    """Remove the task types that a test defines at its end."""
    before = dict(spooler_task_types)
    yield
    spooler_task_types.clear()
    spooler_task_types.update(before)


def claim(attempts: int = 1, crashes: int = 0, unhandled: int = 0) -> Claim:
    """Return a claim as a backend returns it."""
    return Claim("/mail/uwsgi_spoolfile_1", "uwsgi_spoolfile_1", NOTHING, attempts, crashes, None, unhandled)


def prepare(message: Message | Content, attempts: int = 1, crashes: int = 0, unhandled: int = 0) -> Call | Outcome:
    """Prepare a claim of a message."""
    content = message if isinstance(message, Content) else codec.encode(message)
    return dispatch.prepare(claim(attempts, crashes, unhandled), content, NOW, lambda: 0.0)


def prepared(message: Message | Content, attempts: int = 1) -> Call:
    """Return the call of a claim, which must be one that can run."""
    call = prepare(message, attempts)
    assert isinstance(call, Call)
    return call


def refused(message: Message | Content, attempts: int = 1, crashes: int = 0, unhandled: int = 0) -> Outcome:
    """Return the outcome of a claim, which must be one that cannot run."""
    outcome = prepare(message, attempts, crashes, unhandled)
    assert isinstance(outcome, Outcome)
    return outcome


def concluded(
    result: Any = None, exception: BaseException | None = None, attempts: int = 1, options: TaskOptions = OPTIONS
) -> Outcome:
    """Return the outcome of a run that ended like this."""
    ending = dispatch.returned(result) if exception is None else dispatch.raised(exception)
    return dispatch.conclude(options, claim(attempts), ending, NOW, lambda: 0.0)


@pytest.mark.parametrize(
    "result", [True, False, 0, "", [], object(), ResultProcessed(), ResultProcessed(5), TaskResult()]
)
def test_processed(result: Any) -> None:
    """Every value except ``None`` and the two other results is processed, also false ones."""
    assert concluded(result) == Outcome(Verdict.PROCESSED, Ack())


@pytest.mark.parametrize("result", [None, ResultSkipped(), ResultSkipped("not mine")])
def test_skipped(result: Any) -> None:
    """``None`` ends a task, too."""
    assert concluded(result) == Outcome(Verdict.SKIPPED, Ack())


@pytest.mark.parametrize("result", [None, ResultSkipped()])
def test_skipped_for_another_handler(result: Any) -> None:
    """With this option, it runs again with back-off until its attempts are used up."""
    options = TaskOptions(retry=OPTIONS.retry, release_skipped=True)
    outcome = concluded(result, options=options)
    assert (outcome.verdict, outcome.disposition) == (Verdict.SKIPPED, Retry(NOW + 10))
    outcome = concluded(result, attempts=3, options=options)
    assert (outcome.verdict, outcome.disposition) == (Verdict.DEAD, Bury("left for another handler"))


@pytest.mark.parametrize("exception", [ValueError("x"), SystemExit(1), KeyboardInterrupt(), BaseException("y")])
def test_raised(exception: BaseException) -> None:
    """It runs again after each back-off. After the last run it is dead. The reason is the type and first line of the
    error.
    """
    for attempts, delay in ((1, 10), (2, 20)):
        outcome = concluded(exception=exception, attempts=attempts)
        assert (outcome.verdict, outcome.disposition) == (Verdict.RESCHEDULED, Retry(NOW + delay))
    outcome = concluded(exception=exception, attempts=3)
    assert outcome.verdict is Verdict.DEAD
    assert isinstance(outcome.disposition, Bury)
    assert outcome.disposition.reason.startswith(type(exception).__name__)
    assert not outcome.disposition.corrupt


def test_rescheduled() -> None:
    """A reschedule that a task requests counts like a failure."""
    outcome = concluded(ResultRescheduled())
    assert (outcome.verdict, outcome.disposition) == (Verdict.RESCHEDULED, Retry(NOW + 10))
    assert outcome.error == "the task asked to be rescheduled"
    assert concluded(ResultRescheduled(), attempts=3).verdict is Verdict.DEAD


def test_timed_out() -> None:
    """It is a separate verdict while attempts are left."""
    outcome = concluded(exception=TaskTimeout("ran for more than 5 s"))
    assert (outcome.verdict, outcome.disposition) == (Verdict.TIMEOUT, Retry(NOW + 10))
    assert concluded(exception=TaskTimeout("x"), attempts=3).verdict is Verdict.DEAD


@pytest.mark.parametrize(
    ("kind", "verdict"),
    [
        (ResultProcessed, Verdict.PROCESSED),
        (ResultSkipped, Verdict.SKIPPED),
        (ResultRescheduled, Verdict.RESCHEDULED),
    ],
)
def test_an_exception_in_a_result_is_kept(kind: type[TaskResult], verdict: Verdict) -> None:
    """It does not change the verdict, and is recorded."""
    outcome = concluded(kind(exception=ValueError("why")))
    assert outcome.verdict is verdict
    assert outcome.error.endswith("ValueError: why")


def test_the_traceback_is_kept_and_bounded() -> None:
    """It contains the line that raised. Of a very long one, the end is kept, which is the most useful part."""
    call = prepared(call_message(echo.name, (), {"error": ValueError("x" * 20_000 + "end")}))
    with pytest.raises(ValueError, match="end") as caught:
        dispatch.run(call)
    outcome = concluded(exception=caught.value)
    assert len(outcome.error) <= 16_000
    assert outcome.error.endswith("end")
    outcome = concluded(exception=call_and_catch("short"))
    assert "raise error" in outcome.error
    assert outcome.error.startswith("ValueError: short\nTraceback")


def call_and_catch(text: str) -> BaseException:
    """Return the exception of a run, with its traceback."""
    with pytest.raises(ValueError, match=text) as caught:
        dispatch.run(prepared(call_message(echo.name, (), {"error": ValueError(text)})))
    return caught.value


def test_a_function_call_runs() -> None:
    """It is found by its full name, and has its arguments and options."""
    call = prepared(call_message(echo.name, (["x"],), {}))
    assert call.task.process() == ["x"]
    assert dispatch.run(call) == Ending(Verdict.PROCESSED)
    assert call.options is echo.options
    assert (call.task.name, call.task.message) == ("uwsgi_spoolfile_1", "ucfg_fcall")


def test_a_coroutine_is_left_to_the_event_loop() -> None:
    """``run`` returns the coroutine itself, which the owner of a loop awaits."""
    unfinished = dispatch.run(prepared(call_message(aecho.name, (5,), {})))
    assert isinstance(unfinished, Unfinished)
    found = unfinished.coroutine
    assert inspect.iscoroutine(found)
    with pytest.raises(StopIteration) as caught:
        found.send(None)
    assert caught.value.value == 5


def test_a_bare_name_runs() -> None:
    """uwsgiconf and uwsgidecorators name functions without a module."""
    payload = {"func": "echo", "arg": ["x"], "kwg": {}}
    body = pickle.dumps({"payload": payload})
    assert prepared(Content({"msg": b"ucfg_fcall"}, body, None, None, False)).task.process() == "x"


@pytest.mark.parametrize(
    ("returns", "given", "kind"),
    [
        (b"-2", None, ResultProcessed),
        (b"-1", True, ResultRescheduled),
        (b"0", True, ResultSkipped),
        (b"", -2, ResultProcessed),
        (b"", -1, ResultRescheduled),
        (b"", 0, ResultSkipped),
        (b"", None, ResultRescheduled),
    ],
)
def test_uwsgidecorators_verdicts(returns: bytes, given: Any, kind: type[TaskResult]) -> None:
    """``@spool`` means done and ``@spoolforever`` again, whatever the function returns. With ``@spoolraw``, the
    function decides.
    """
    vars = {"ud_spool_func": b"echo", "args": pickle.dumps((given,)), "kwargs": pickle.dumps({})}
    if returns:
        vars["ud_spool_ret"] = returns
    result: Any = prepared(Content(vars, b"", None, None, False)).task.process()
    assert type(result) is kind
    assert result.result == given


def test_a_message_goes_to_the_heir_of_its_type() -> None:
    """They are found with and without the prefix. Any other text goes to ``SpoolerTask`` itself, which is processed."""

    class Mail(SpoolerTask):
        type_id = "mail"
        options = OPTIONS

        def process(self) -> Any:
            return self.message, self.payload

    for text in ("ucfg_mail", "mail"):
        call = prepared(Message(text, {"to": "ann"}))
        assert type(call.task) is Mail
        assert call.options is OPTIONS
        assert call.task.process() == (text, {"to": "ann"})
    for text in ("mails", "Mail", "hello"):
        call = prepared(Message(text))
        assert type(call.task) is SpoolerTask
        assert call.task.process() is True


@pytest.mark.parametrize(
    ("message", "missing"),
    [
        (call_message("app:gone", (), {}), "'app:gone'"),
        (call_message("tests.unit.test_dispatch:gone", (), {}), "'tests.unit.test_dispatch:gone'"),
        (Message("ucfg_gone"), "'gone'"),
        (Content({"k": b"v"}, b"", None, None, False), "uwsgi.spool()"),
    ],
)
def test_no_handler(message: Message | Content, missing: str) -> None:
    """It is kept with back-off for a deploy, and is then dead with the missing name."""
    outcome = refused(message)
    assert (outcome.verdict, outcome.disposition) == (Verdict.RESCHEDULED, Retry(NOW + 5, begun=False))
    assert missing in outcome.error
    assert refused(message, unhandled=2).disposition == Retry(NOW + 20, begun=False)
    outcome = refused(message, unhandled=19)
    assert outcome.verdict is Verdict.DEAD
    assert isinstance(outcome.disposition, Bury)
    assert missing in outcome.disposition.reason
    assert not outcome.disposition.corrupt


def test_a_missing_module_is_waited_for() -> None:
    """A payload of a class that this program does not have is treated like a missing handler."""
    body = pickle.dumps({"payload": 1}).replace(b"K\x01", b"cmodule_of_tomorrow\nThing\n")
    outcome = refused(Content({"msg": b"m"}, body, None, None))
    assert (outcome.verdict, outcome.disposition) == (Verdict.RESCHEDULED, Retry(NOW + 5, begun=False))
    assert "module_of_tomorrow" in outcome.error


class NotYet:
    """An object that raises while it is rebuilt, like an enum member that no longer exists."""

    def __reduce__(self) -> Any:
        return int, ("no number",)


def test_an_argument_that_cannot_be_rebuilt_is_waited_for() -> None:
    """A deploy may add what it needs. Without one, it is dead, and not corrupt."""
    outcome = refused(Message("m", NotYet()))
    assert (outcome.verdict, outcome.disposition) == (Verdict.RESCHEDULED, Retry(NOW + 5, begun=False))
    assert "ValueError: invalid literal" in outcome.error
    outcome = refused(Message("m", NotYet()), unhandled=19)
    assert outcome.verdict is Verdict.DEAD
    assert isinstance(outcome.disposition, Bury)
    assert not outcome.disposition.corrupt


def test_corrupt() -> None:
    """A sealed body that cannot be read was sent like that, so it is set aside at once."""
    outcome = refused(Content({"msg": b"m"}, b"garbage", None, None, True))
    assert outcome.verdict is Verdict.CORRUPT
    assert isinstance(outcome.disposition, Bury)
    assert outcome.disposition.corrupt


def test_an_unsealed_file_is_given_one_more_look() -> None:
    """Another program may still be copying it. The second time, it is set aside."""
    envelope = Content({"msg": b"m"}, b"garbage", None, None, False)
    outcome = refused(envelope)
    assert (outcome.verdict, outcome.disposition) == (Verdict.RESCHEDULED, Retry(NOW + 5))
    outcome = refused(envelope, attempts=2)
    assert outcome.verdict is Verdict.CORRUPT
    assert isinstance(outcome.disposition, Bury)
    assert outcome.disposition.corrupt


def test_killed_its_worker_too_often() -> None:
    """After three crashes, it is not decoded."""
    prepared(Message("m"), attempts=3)
    outcome = refused(Content({"msg": b"m"}, b"garbage", None, None), attempts=4, crashes=MAX_CRASHES)
    assert outcome.verdict is Verdict.DEAD
    assert isinstance(outcome.disposition, Bury)
    assert (outcome.disposition.reason, outcome.disposition.corrupt) == ("killed its worker 3 times", False)


def test_jitter_is_given() -> None:
    """The random number is a parameter, so that a test can choose it."""
    options = TaskOptions(retry=RetryPolicy(delay=10, jitter=0.5))
    outcome = dispatch.conclude(options, claim(), Ending(Verdict.RESCHEDULED, "why"), NOW, lambda: 1.0)
    assert outcome.disposition == Retry(NOW + 15)


def test_an_heir_that_cannot_be_made_fails_as_a_run_would() -> None:
    """A constructor that raises is a failure of the task, with its traceback, and the worker lives."""

    class Broken(SpoolerTask):
        """A type whose constructor raises."""

        type_id = "broken-constructor"

        def __init__(self, name: str, message: str, payload: object) -> None:
            raise ValueError("no")

    outcome = prepare(Message("ucfg_broken-constructor"))
    del spooler_task_types["broken-constructor"]
    assert isinstance(outcome, Outcome)
    assert outcome.verdict is Verdict.RESCHEDULED
    assert "ValueError: no" in outcome.error


def test_attempts_that_ended_with_their_worker_are_used_up_too() -> None:
    """A run that kills its worker has no verdict, so the next claim sets the task aside instead of running it once
    more. This claim is not an attempt.
    """
    message = call_message("tests.unit.test_dispatch:echo", (), {})
    assert isinstance(prepare(message, attempts=3, crashes=2), Call)
    outcome = refused(message, attempts=4, crashes=1)
    reason = "its 3 attempts are used up; 1 of 3 runs ended with their worker"
    assert outcome == Outcome(Verdict.DEAD, Bury(reason, begun=False), reason)
    assert not outcome.begun
    assert refused(call_message(once.name, (), {}), 2, 1).error == "its only attempt ended with its worker"


def test_attempts_without_a_handler_do_not_keep_a_task_from_its_first_run() -> None:
    """A task that waited for a deploy runs once, even if an older version counted more attempts than it may have."""
    assert isinstance(prepare(call_message(once.name, (), {}), attempts=5), Call)


def test_the_delay_after_a_run_that_was_killed() -> None:
    """It is the delay of a failed run, and there is none after the last attempt."""
    assert dispatch.delay_after(echo.options, claim(attempts=2), lambda: 0.0) == 20
    assert dispatch.delay_after(echo.options, claim(attempts=3), lambda: 0.0) is None


class Proxy:
    """A proxy of an object that does not exist, which raises on every access."""

    def __getattribute__(self, name: str) -> Any:
        raise RuntimeError(f"asked for {name}")

    def __bool__(self) -> bool:
        raise RuntimeError("asked whether it is true")

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("compared")

    __hash__ = None  # type: ignore[assignment]


class Munch(dict[str, Any]):
    """An object that has any attribute."""

    def __getattr__(self, name: str) -> Any:
        return self.setdefault(name, Munch())


class AttributeDict(dict[str, Any]):
    """A dict that raises a KeyError for a missing attribute."""

    __getattr__ = dict.__getitem__


class Impostor:
    """An object that claims to be of another class."""

    __class__ = ResultRescheduled  # type: ignore[assignment]


@pytest.mark.parametrize("kind", [Proxy, Munch, AttributeDict, Impostor])
def test_a_result_is_not_asked_for_anything(kind: type) -> None:
    """Whatever its attributes are, or its class claims to be, the task is processed, also by a function for uWSGI with
    a fixed verdict.
    """
    payload = {"func": echo.name, "arg": (kind(),), "kwg": {}}
    call = Call(SpoolerFunctionCallTask("name", "m", payload), OPTIONS)
    assert dispatch.run(call) == Ending(Verdict.PROCESSED)
    call.task.payload["returns"] = "-2"
    assert dispatch.run(call) == Ending(Verdict.PROCESSED)


def test_a_result_that_computes_its_exception_fails_in_the_run() -> None:
    """The caller, which handles the errors of the run, gets the exception."""

    class Computed(ResultProcessed):
        @property
        def exception(self) -> Any:
            raise RuntimeError("not set up")

        @exception.setter
        def exception(self, value: Any) -> None:
            pass

    with pytest.raises(RuntimeError, match="not set up"):
        dispatch.returned(Computed())


class Mute(Exception):
    """An exception that has no text, and is false."""

    def __str__(self) -> str:
        raise SystemExit("asked for its text")

    def __bool__(self) -> bool:
        raise SystemExit("asked whether it is true")

    @property
    def __notes__(self) -> Any:  # type: ignore[override]
        raise SystemExit("asked for its notes")


def test_an_exception_that_cannot_be_read_is_a_failure_as_any_other() -> None:
    """Raised, or in a result: its type is shown."""
    name = f"{__name__}.Mute: <exception str() failed>"
    assert dispatch.raised(Mute()) == Ending(Verdict.RESCHEDULED, name, Mute)
    assert dispatch.returned(ResultRescheduled(exception=Mute())).error == name


class Bomb:
    """An object that raises when it is unpickled."""

    def __init__(self, error: type[BaseException]) -> None:
        self.error = error

    def __reduce__(self) -> Any:
        return _raise, (self.error,)


def _raise(error: type[BaseException]) -> None:
    raise error


class Missing(Mute, ImportError):
    """An exception that says that something is missing, but not what."""


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt, GeneratorExit, TaskTimeout, Missing])
def test_whatever_unpickling_raises_is_contained(error: type[BaseException]) -> None:
    """It is a failure of the task, which is retried."""
    outcome = refused(Message("m", Bomb(error)))
    assert outcome.verdict is Verdict.RESCHEDULED
    assert error.__name__ in outcome.error


class Stubborn(Exception):
    """An exception without text, which pickling raises."""

    def __str__(self) -> str:
        raise RuntimeError("asked for its text")


class Unsendable:
    """An object that cannot be pickled."""

    def __reduce__(self) -> Any:
        raise Stubborn


def test_an_argument_that_cannot_even_say_why_it_cannot_be_sent() -> None:
    """It is refused and named."""
    with pytest.raises(PayloadRefused, match=r"argument 1 of .*:echo .*<exception str\(\) failed>"):
        codec.encode(echo.message(Unsendable()))


class Sly(type):
    """A class of classes that raise when they are inspected."""

    @property
    def __mro__(cls) -> Any:  # type: ignore[override]
        raise SystemExit

    def __subclasscheck__(cls, subclass: type) -> bool:
        raise SystemExit


class SlyError(LookupError, metaclass=Sly):
    """An error of such a class."""


@pytest.mark.parametrize(
    ("types", "exception", "dead"),
    [
        (KeyError, KeyError("x"), True),
        ((OSError, KeyError), ConnectionResetError(), True),
        ([LookupError], SlyError(), True),
        (TaskTimeout, TaskTimeout("too long"), True),
        (KeyError, LookupError("x"), False),
        (KeyError, SlyError(), False),
        ((), KeyError("x"), False),
    ],
)
def test_errors_that_are_not_retried(types: Any, exception: BaseException, dead: bool) -> None:
    """A task that raises one of them, or of a subclass, is dead at once. No code of its class runs."""
    options = TaskOptions(no_retry_for=types)
    outcome = dispatch.conclude(options, claim(), dispatch.raised(exception), NOW, lambda: 0.0)
    assert isinstance(outcome.disposition, Bury if dead else Retry)
    assert outcome.begun
    if dead:
        assert (outcome.verdict, outcome.disposition) == (Verdict.DEAD, Bury(reason_of(outcome.error)))


def test_a_task_that_ends_as_dead() -> None:
    """It raises ``Dead`` or returns ``ResultDead``, with a reason, an error, or neither."""
    endings = [
        dispatch.raised(Dead("no such customer")),
        dispatch.returned(ResultDead("blocked")),
        dispatch.returned(ResultDead(exception=KeyError("x"))),
        dispatch.returned(ResultDead()),
        dispatch.returned(ResultDead(5)),
    ]
    outcomes = [dispatch.conclude(OPTIONS, claim(), ending, NOW, lambda: 0.0) for ending in endings]
    assert {outcome.verdict for outcome in outcomes} == {Verdict.DEAD}
    itself = "the task ended itself as dead"
    reasons = ["unspool.errors.Dead: no such customer", "blocked", "KeyError: 'x'", itself, itself]
    assert [outcome.disposition for outcome in outcomes] == [Bury(reason) for reason in reasons]


def test_a_task_that_asks_for_another_run_gets_it() -> None:
    """``no_retry_for`` does not apply to ``ResultRescheduled``."""
    options = TaskOptions(no_retry_for=KeyError)
    ending = dispatch.returned(ResultRescheduled(exception=KeyError("x")))
    assert isinstance(dispatch.conclude(options, claim(), ending, NOW, lambda: 0.0).disposition, Retry)


@pytest.mark.parametrize("given", ["ValueError", ValueError("x"), (ValueError, int), None, 5, [[ValueError]]])
def test_what_is_no_type_of_exceptions(given: Any) -> None:
    """It is refused when the task is defined, naming the option."""
    with pytest.raises(OptionRefused, match=r"no_retry_for is .*; it must be a type of exceptions"):
        TaskOptions.of(no_retry_for=given)
