"""``unspool.compat``: what it sends, how it runs, and what it refuses. With real uWSGI: ``tests/uwsgi``."""

import os
import pickle
import time
from pathlib import Path
from typing import Any

import pytest

from unspool import FunctionTask, Spooler, compat, configure, registry
from unspool.backends.spool import SpoolBackend
from unspool.compat import uwsgi, uwsgidecorators
from unspool.compat.uwsgidecorators import SPOOL_OK, SpoolFunction, spool, spoolforever, spoolraw
from unspool.compat.variables import pack
from unspool.errors import NoSpooler, OptionRefused, PayloadRefused
from unspool.functions import find_function
from unspool.message import State, Verdict
from unspool.options import TaskOptions
from unspool.testing import FakeClock, Run, run_all
from unspool.testing.exchange import sealed
from unspool.wire import MAX_VARS

HERE = __name__
KWARGS = pickle.dumps({})
ran: list[Any] = []


@spool
def plain(message: dict[str, Any]) -> None:
    """Takes the message."""
    ran.append(message)


@spool(pass_arguments=True)
def with_arguments(*args: Any, **kwargs: Any) -> None:
    """Takes arguments."""
    ran.append((args, kwargs))


@spoolraw(pass_arguments=True)
def returning(code: Any) -> Any:
    """Returns what it is given."""
    return code


@spoolforever(pass_arguments=True)
def forever(fails: bool) -> None:
    """Never done."""
    if fails:
        raise ValueError("but not for this")


@spoolforever(pass_arguments=True, period=0.5)
def often() -> str:
    """Never done, and soon back."""
    return "done"


@spool(pass_arguments=True)
async def later(text: str) -> None:
    """A coroutine function, which uWSGI has not."""
    ran.append(text)


class Unpicklable:
    """An object that cannot be sent."""

    def __reduce__(self) -> Any:
        raise TypeError("not this one")


@pytest.fixture(autouse=True)
def spool_directory(tmp_path: Path, own_registries: None) -> Path:
    """A configured spooler. Tasks that a test registers are removed at its end."""
    configure(spoolers=[tmp_path / "mail", tmp_path / "other"], durability="relaxed")
    ran.clear()
    return tmp_path / "mail"


def run() -> list[Run]:
    """Run all ready tasks."""
    return run_all(registry.backend())


def sent(path: bytes) -> dict[str, Any]:
    """Return the content of a task's file."""
    return Spooler.read_task_file(os.fsdecode(path))


def test_what_is_sent_is_what_uwsgidecorators_sends() -> None:
    """The variables are the function's bare name, the code, and pickled arguments, and in addition the full name."""
    found = sent(with_arguments(1, b=2))
    assert (found["ud_spool_func"], found["ud_spool_ret"], found["body"]) == ("with_arguments", "-2", b"")
    assert found["unspool_task"] == found["function"] == f"{HERE}:with_arguments"
    assert (pickle.loads(found["args"]), pickle.loads(found["kwargs"])) == ((1,), {"b": 2})
    assert "ud_spool_ret" not in sent(returning(0))
    assert sent(forever(False))["ud_spool_ret"] == "-1"


def test_the_message_is_given_as_it_was_sent() -> None:
    """A dict, keyword arguments, or both; text and bytes. Numbers become text, and unspool's own variables are
    omitted.
    """
    path = plain({"a": "ä", b"b": b"\xff", "n": 5}, body="BODY", priority="3")
    run()
    assert ran == [
        {
            "a": "ä",
            "b": b"\xff",
            "n": "5",
            "priority": "3",
            "body": "BODY",
            "ud_spool_func": "plain",
            "ud_spool_ret": "-2",
            "spooler_task_name": os.fsdecode(path).rpartition("/")[2],
        }
    ]


def test_special_keys(spool_directory: Path) -> None:
    """Spooler, priority and time are keyword arguments that the function does not get."""
    other = str(spool_directory.with_name("other"))
    at = int(time.time()) + 1000
    found = sent(with_arguments("x", spooler=other, priority=7, at=at, body="unused"))
    assert (found["spooler"], found["priority"], found["due"]) == (other, 7, at)
    assert pickle.loads(found["kwargs"]) == {}
    found = sent(plain({"spooler": other.encode(), b"priority": b"7", "at": f"{at}.5"}))
    assert (found["spooler"], found["priority"], found["due"]) == (other, 7, at + 0.5)
    assert sent(plain(spooler="other", at=5))["state"] == State.READY


@pytest.mark.parametrize("special", [{"priority": "-1"}, {"priority": "../x"}, {"at": "soon"}, {"at": "nan"}])
def test_special_keys_that_are_none(special: dict[str, str]) -> None:
    """A priority that is a path, or an invalid time, is refused, and nothing is sent."""
    with pytest.raises(OptionRefused):
        plain(special)
    with pytest.raises(OptionRefused):
        with_arguments(**special)
    with pytest.raises(NoSpooler):
        plain(spooler="no-such")
    assert Spooler.get_tasks() == []


def test_large_arguments_travel_in_the_body() -> None:
    """uWSGI's variables end at 64 KiB, where uWSGI truncates. Sizes just below and above arrive complete."""
    overhead = MAX_VARS - len(pickle.dumps(("",), 4))
    for size in (overhead - 400, overhead - 200, overhead, 1 << 20):
        with_arguments("x" * size, n=size)
    run()
    assert [(len(args[0]), kwargs["n"]) for args, kwargs in ran] == [
        (size, size) for size in (overhead - 400, overhead - 200, overhead, 1 << 20)
    ]
    returning("-1" + " " * (1 << 17))
    returning(-1)
    [large, small] = run()
    assert large.verdict == small.verdict == Verdict.RESCHEDULED


def test_large_values_of_a_message_are_refused() -> None:
    """What uWSGI would truncate is refused, and the error says where to put it."""
    with pytest.raises(PayloadRefused, match="body"):
        plain({"text": "x" * MAX_VARS})
    with pytest.raises(PayloadRefused, match="body"):
        uwsgi.spool({"text": "x" * MAX_VARS})
    plain({"body": "x" * MAX_VARS * 2})
    run()
    assert len(ran[0]["body"]) == MAX_VARS * 2


@pytest.mark.parametrize("name", ["unspool_sum", "unspool_sig", "unspool_queue"])
def test_a_variable_that_is_named_like_a_part_of_the_seal(name: str) -> None:
    """It would be lost as a part of the seal, so it is refused with a clear error. A fuzzer found this."""
    with pytest.raises(PayloadRefused, match=f"'{name}', which is unspool's own"):
        uwsgi.spool({name: b"x" * 43})


def test_what_cannot_be_sent_is_named() -> None:
    """An argument that cannot be pickled, and a value or key that is neither text nor a number."""
    with pytest.raises(PayloadRefused, match=r"argument 'b' of .*with_arguments.*Unpicklable"):
        with_arguments(1, b=Unpicklable())
    with pytest.raises(PayloadRefused, match="'a' is a list"):
        plain({"a": [1]})
    with pytest.raises(PayloadRefused, match="5 is a int"):
        plain({5: "a"})


@pytest.mark.parametrize(
    ("code", "verdict"),
    [
        (SPOOL_OK, Verdict.PROCESSED),
        (compat.SPOOL_RETRY, Verdict.RESCHEDULED),
        (uwsgidecorators.SPOOL_IGNORE, Verdict.SKIPPED),
        (None, Verdict.RESCHEDULED),
    ],
)
def test_spoolraw_returns_uwsgis_codes(code: object, verdict: Verdict) -> None:
    """Any other value means again, as in uWSGI."""
    returning(code)
    assert [ended.verdict for ended in run()] == [verdict]


def test_spool_is_done_unless_it_raises() -> None:
    """``None`` means done, an exception means again."""

    @spool
    def fail(message: dict[str, Any]) -> int:
        raise ValueError(SPOOL_OK)

    plain()
    fail()
    assert [ended.verdict for ended in run()] == [Verdict.PROCESSED, Verdict.RESCHEDULED]


@pytest.mark.parametrize("fails", [True, False])
def test_spoolforever_has_a_steady_period(spool_directory: Path, fails: bool) -> None:
    """After a hundred runs it is neither dead nor slower, whether it raises or not."""
    clock = FakeClock()
    backend = SpoolBackend(str(spool_directory), durable=False, clock=clock)
    forever(fails)
    for attempt in range(1, 101):
        [ended] = run_all(backend, clock=clock)
        assert (ended.verdict, ended.attempt) == (Verdict.RESCHEDULED, attempt)
        clock.advance(29.5)
        assert run_all(backend, clock=clock) == []
        clock.advance(0.5)
    backend.close()


def test_the_period_of_spoolforever_can_be_chosen(spool_directory: Path) -> None:
    """The period is in seconds. An invalid number is refused at decoration."""
    clock = FakeClock()
    backend = SpoolBackend(str(spool_directory), durable=False, clock=clock)
    often()
    for _ in range(3):
        assert [ended.verdict for ended in run_all(backend, clock=clock)] == [Verdict.RESCHEDULED]
        clock.advance(0.5)
    backend.close()
    for period in (0, -1, float("nan"), float("inf"), "5"):
        with pytest.raises(OptionRefused):
            spoolforever(period=period)  # type: ignore[call-overload]


def test_a_coroutine_function_runs() -> None:
    """Its verdict counts after it has run."""
    later("new")
    [ended] = run()
    assert (ended.verdict, ran) == (Verdict.PROCESSED, ["new"])


def test_left_messages_for_a_function_that_is_now_a_coroutine_function() -> None:
    """A program that changes to ``Spooler.task`` and ``async def`` runs the earlier tasks, and loses none."""

    async def resize(name: str) -> None:
        ran.append(name)

    FunctionTask(resize, TaskOptions(), lambda messages, spooler: [], name="resize").register()
    call = {"ud_spool_func": "resize", "ud_spool_ret": "-2", "args": pickle.dumps(("a.png",)), "kwargs": KWARGS}
    registry.backend().send([sealed(pack(call))])
    [ended] = run()
    assert (ended.verdict, ran) == (Verdict.PROCESSED, ["a.png"])


def test_the_forms_of_decorating() -> None:
    """With and without parentheses; ``.spool`` on the function and on the original; ``.f`` is the original."""

    def define() -> Any:
        def original(message: dict[str, Any]) -> None:
            """What it does."""
            ran.append(message["n"])

        return original

    for decorate in (spool, spoolraw, spoolforever):
        for form in (decorate, decorate(), decorate(pass_arguments=False)):
            original = define()
            made = form(original)
            assert isinstance(made, SpoolFunction)
            assert made.f is original
    original = define()
    made = spool(original)
    made(n=1)
    made.spool({"n": 2})
    original.spool({"n": 3})
    run()
    assert ran == ["1", "2", "3"]  # also where the function is defined inside another one, as in an app factory


def test_functions_of_one_name() -> None:
    """A task function of another module with the same bare name is not confused with this one."""

    def other(message: dict[str, Any]) -> None:
        raise AssertionError("not mine")

    other.__name__ = other.__qualname__ = "plain"
    other.__module__ = "elsewhere"
    spool(other)
    plain(name="mine")
    run()
    assert ran[0]["name"] == "mine"


def test_the_path_is_returned(spool_directory: Path) -> None:
    """It is bytes, as uWSGI returns them."""
    path = os.fsdecode(plain(name="x"))
    assert Path(path).parent == spool_directory
    assert Path(path).is_file()
    assert os.fsdecode(uwsgi.spool({"a": "b"})) in Spooler.get_tasks()


def test_the_command_line_can_send_to_them() -> None:
    """A call in unspool's own form has the decorator's verdict, too."""
    [function] = {find_function(name) for name in ("returning", f"{HERE}:returning")}
    function.enqueue(-1)
    function.using(priority=1).enqueue(0)
    assert [ended.verdict for ended in run()] == [Verdict.SKIPPED, Verdict.RESCHEDULED]


@pytest.mark.parametrize("name", ["timer", "cron", "lock", "mule", "postfork", "signal"])
def test_what_is_not_offered_says_so(name: str) -> None:
    """The other decorators need uWSGI. The error of an import names those that do not."""
    with pytest.raises(ImportError, match=f"no {name}: only spool, spoolraw and spoolforever"):
        exec(f"from unspool.compat.uwsgidecorators import {name}", {})  # noqa: S102  the statement itself is what is tested
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = uwsgidecorators.nonsense


def test_a_bare_message_needs_a_handler() -> None:
    """Without a handler, it waits for a program that has one, and nothing is decoded, whatever its variables are."""
    uwsgi.spool({"msg": "ucfg_fcall", "ud": "x"}, body=b"no pickle")
    [ended] = run()
    assert ended.verdict is Verdict.RESCHEDULED
    assert "spooler_handler" in ended.error

    seen = []

    @uwsgi.spooler_handler
    def handle(env: dict[Any, bytes]) -> int:
        seen.append(env)
        return SPOOL_OK

    path = uwsgi.spool({"msg": "ucfg_fcall", "ud": "x"}, body=b"no pickle")
    assert [ended.verdict for ended in run()] == [Verdict.PROCESSED]
    name = path.rpartition(b"/")[2]
    assert seen == [{"spooler_task_name": name, b"msg": b"ucfg_fcall", b"ud": b"x", "body": b"no pickle"}]


@pytest.mark.parametrize(
    ("code", "verdict"),
    [(-2, Verdict.PROCESSED), (-1, Verdict.RESCHEDULED), (0, Verdict.SKIPPED), (None, Verdict.RESCHEDULED)],
)
def test_the_codes_of_a_handler(code: int | None, verdict: Verdict) -> None:
    """These are uWSGI's codes, and any other value means again. The last registered handler is used."""
    compat.spooler_handler(lambda env: -2)
    compat.spooler_handler(lambda env: code)
    compat.spool(a="b")
    assert [ended.verdict for ended in run()] == [verdict]


def test_a_handler_takes_no_others_messages() -> None:
    """Messages of unspool and uwsgidecorators go to their own handlers."""

    @compat.spooler_handler
    def handle(env: dict[Any, bytes]) -> int:
        raise AssertionError(env)

    plain(name="x")
    Spooler.send_message_raw("hello")
    Spooler.send_message_raw("ucfg_none")
    assert [ended.verdict for ended in run()] == [Verdict.PROCESSED, Verdict.PROCESSED, Verdict.RESCHEDULED]


def test_the_handler_may_be_assigned() -> None:
    """As a program for uWSGI does it. The older name sends, too."""
    seen = []

    def handle(env: dict[Any, bytes]) -> int:
        seen.append(env[b"a"])
        return SPOOL_OK

    uwsgi.spooler = handle
    uwsgi.send_to_spooler(a="b")
    run()
    assert seen == [b"b"]


def test_what_the_module_has_not() -> None:
    """The error says what works without uWSGI."""
    with pytest.raises(AttributeError, match=r"unspool.compat.uwsgi has no worker_id: only .*spool"):
        _ = uwsgi.worker_id
