"""Task functions as objects: unique names, attributes, pickling, and hints for common mistakes."""

import asyncio
import functools
import importlib
import json
import multiprocessing
import pathlib
import pickle
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from unspool import Spooler, SpoolerTask, configure, raw_message
from unspool.errors import FunctionRefused, NoHandler, OptionRefused, PayloadRefused
from unspool.functions import find_function, registry
from unspool.options import TaskOptions

HERE = __name__


@pytest.fixture(autouse=True)
def registries(own_registries: None) -> None:
    """Remove the tasks that a test registers at its end."""


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    """A configured spooler."""
    configure(spoolers=[tmp_path / "mail"], durability="relaxed")
    return tmp_path / "mail"


def charge(order: int) -> None:
    """Decorated in tests."""


@Spooler.task
def note(x: Any = 0, **more: Any) -> bool:
    """A task with attributes of a task's own for keyword arguments."""
    return True


# --- one task of each name


def test_a_second_task_of_one_name_is_refused() -> None:
    """Otherwise the last one would silently replace the first: here, it would run three times instead of once."""
    Spooler.task(max_attempts=1)(charge)
    with pytest.raises(
        FunctionRefused, match=rf"{HERE}:charge is the name of a task already \(at .*test_functions.py:\d+\)"
    ):
        Spooler.task(max_attempts=3)(charge)
    assert find_function(f"{HERE}:charge").options == TaskOptions.of(max_attempts=1)


def test_wrappers_of_one_function_are_refused() -> None:
    """They have the same name, and do different things."""

    def region(name: str) -> Callable[[Callable[[int], None]], Callable[[int], None]]:
        def decorate(function: Callable[[int], None]) -> Callable[[int], None]:
            @functools.wraps(function)
            def run(order: int) -> None: ...

            return run

        return decorate

    Spooler.task(region("EU")(charge))
    with pytest.raises(FunctionRefused, match="give the function another name"):
        Spooler.task(region("US")(charge))


def test_the_same_task_may_be_made_twice() -> None:
    """With the same options on the same spooler, nothing changes."""
    assert Spooler.task(charge).options == Spooler.task(charge).options


MODULE = """
from unspool import Spooler

@Spooler.task
def greet(name): ...
"""


def test_a_module_may_be_imported_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """This happens with a reload, also after an edit that moves its lines, and for ``__main__`` beside its own name."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    file = tmp_path / "reloaded_module.py"
    file.write_text(MODULE)
    module = importlib.import_module("reloaded_module")
    first = find_function("reloaded_module:greet")
    importlib.reload(module)
    file.write_text("# another line\n" + MODULE)
    importlib.invalidate_caches()
    importlib.reload(module)
    del sys.modules["reloaded_module"]
    importlib.import_module("reloaded_module")
    last = find_function("reloaded_module:greet")
    assert first is not last
    assert registry.bare["greet"].count(last) == 1
    assert first not in registry.bare["greet"]


def test_two_functions_of_a_module_with_one_name_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second definition hides the first."""
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "twice_module.py").write_text(MODULE + MODULE)
    with pytest.raises(
        FunctionRefused, match=r"twice_module:greet is the name of a task already \(at .*twice_module.py:4\)"
    ):
        importlib.import_module("twice_module")
    sys.modules.pop("twice_module", None)


def test_a_bare_name_of_two_functions_is_refused_when_looked_up() -> None:
    """Other programs send the bare name, which does not say which of the two is meant."""

    def define(module: str) -> None:
        def send() -> None: ...

        send.__module__, send.__qualname__ = module, "send"
        Spooler.task(send)

    define("mail")
    assert find_function("send").name == "mail:send"
    define("fax")
    with pytest.raises(NoHandler, match=r"2 task functions are named 'send' in this program \(fax:send, mail:send\)"):
        find_function("send")
    with pytest.raises(NoHandler, match=r"no task function 'shop.mail:send' .*; it has mail:send, fax:send"):
        find_function("shop.mail:send")


def test_a_second_type_of_one_id_is_refused() -> None:
    """The same holds for task types. A subclass may replace its base."""

    class Mail(SpoolerTask):
        type_id = "mail of this test"

    class BetterMail(Mail):
        """Takes over."""

    with pytest.raises(OptionRefused, match=r"type_id of .*Fax is 'mail of this test', which .*BetterMail already has"):

        class Fax(SpoolerTask):
            type_id = "mail of this test"

    with pytest.raises(OptionRefused, match="SpoolerFunctionCallTask already has"):

        class Call(SpoolerTask):
            type_id = "fcall"


# --- attributes


def test_attributes_of_the_function_do_not_shadow_the_tasks_own() -> None:
    """Other attributes are kept, as by ``functools.wraps``."""

    def labelled(function: Any) -> Any:
        function.name, function.options, function.using, function.label = "My label", ["GET"], None, "kept"
        return function

    task: Any = Spooler.task(labelled(charge))
    assert task.name == f"{HERE}:charge"
    assert task.options == TaskOptions()
    assert task.using(priority=1).options.priority == 1
    assert task.label == "kept"
    for name in ("name", "options", "using", "label"):
        delattr(charge, name)


@pytest.mark.parametrize("name", ["delay", "apply_async", "send", "defer"])
def test_names_of_other_task_queues_are_answered_with_a_hint(name: str) -> None:
    """An AttributeError says how to send here."""
    with pytest.raises(AttributeError, match=rf"has no attribute '{name}'; to run it later, call it: note\(\.\.\.\)"):
        getattr(note, name)
    assert not hasattr(note, "nonsense")


class Mailer:
    """A class with a task function in it, and one that refers to another."""

    @Spooler.task
    def post(to: str) -> None:  # type: ignore[misc]  # noqa: N805
        pass

    deliver = note


def test_it_is_no_method() -> None:
    """On an instance, it would get no self. On a class it works, and so does one that the class refers to."""
    assert Mailer.deliver is Mailer().deliver is note
    assert Mailer.post.name.endswith(":Mailer.post")
    with pytest.raises(FunctionRefused, match=r"is not a method.* call it as .*Mailer\.post"):
        _ = Mailer().post


def test_it_pickles_by_its_name(spool: Path) -> None:
    """So it can go to another process, with its options, and can be an argument of a task."""
    assert pickle.loads(pickle.dumps(note)) is note
    other = note.using(priority=3, spooler="mail")
    again = pickle.loads(pickle.dumps(other))
    assert (again.name, again.options, again.spooler) == (other.name, other.options, other.spooler)
    with multiprocessing.get_context("fork").Pool(1) as pool:
        [id] = pool.map(note, [1])
    assert Spooler.get_tasks() == [id]
    assert note(note)
    with pytest.raises(TypeError, match="is bound to a connection"):
        pickle.dumps(note.using(connection=object()))


def test_any_keyword_argument_reaches_the_function(spool: Path) -> None:
    """This includes ``self``, and the names of a task's own parameters."""
    id = note(**{"self": 1, "args": 2, "name": 3})
    assert Spooler.get_tasks() == [id]
    assert note.call_local(**{"self": 1}) is True


def test_help_and_signature_of_the_decorator() -> None:
    """Users look these up first."""
    import inspect

    assert str(inspect.signature(Spooler.task)).startswith("(func: Any = None, /, **options")
    assert "max_attempts" in (inspect.getdoc(Spooler.task) or "")
    assert Spooler.task.__name__ == "task"  # type: ignore[attr-defined]


# --- what cannot be sent


def test_a_path_names_a_spooler(spool: Path) -> None:
    """A ``pathlib.Path`` is accepted wherever a name is."""
    for place in (pathlib.Path(spool), str(spool), Spooler(spool)):
        assert note.using(spooler=place)(1).startswith(str(spool))
        assert Spooler.send_message_raw("x", spooler=place).startswith(str(spool))
        assert Spooler.send_many([raw_message("x")], spooler=place)[0].startswith(str(spool))


@pytest.mark.parametrize("spooler", [None, 5, b"mail", "", object()])
def test_what_is_no_spooler_is_refused(spooler: Any) -> None:
    """This includes None, which ``get_by_basename`` returns for a mistyped name. It must not mean the default queue."""
    with pytest.raises(OptionRefused, match=r"spooler is .*; it must be a name, a path, a Spooler or a backend"):
        note.using(spooler=spooler)
    if spooler is not None:
        with pytest.raises(OptionRefused):
            Spooler(spooler)


def test_an_unknown_base_name_is_logged(spool: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The API returns None. The log lists the configured ones, before ``None.task`` fails."""
    assert Spooler.get_by_basename("typo") is None
    assert "no spooler is named 'typo' (configured: mail)" in caplog.text


@pytest.mark.parametrize("calls", ["abc", b"abc", {"x": 1}, 5, None])
def test_what_is_no_list_of_calls_is_refused(spool: Path, calls: Any) -> None:
    """A string would be one call per letter, a mapping one per key."""
    with pytest.raises(PayloadRefused, match=r"pass a list with one entry for each call"):
        note.enqueue_many(calls)
    assert Spooler.get_tasks() == []


@pytest.mark.parametrize("messages", [[1], [note], "x", None, raw_message("x"), [raw_message("x"), "y"]])
def test_what_is_no_message_is_refused(spool: Path, messages: Any) -> None:
    """Nothing is sent, and the error says how to make messages."""
    with pytest.raises(PayloadRefused, match=r"task.message\(...\) or unspool.raw_message\(...\)"):
        Spooler.send_many(messages)
    assert Spooler.get_tasks() == []


@pytest.mark.parametrize("path", [None, 5, ["x"]])
def test_what_is_no_path_of_a_task_is_refused(spool: Path, path: Any) -> None:
    """``read_task_file`` says so itself."""
    with pytest.raises(OptionRefused, match="the path of the task is"):
        Spooler.read_task_file(path)


def test_options_take_timedeltas() -> None:
    """It is accepted wherever seconds are, and ``postpone`` also by position, as in the API of uwsgiconf."""
    options = TaskOptions.of(timeout=timedelta(minutes=1), retry_delay=timedelta(seconds=2))
    assert (options.timeout, options.retry.delay) == (60.0, 2.0)
    for bad in (timedelta(), timedelta(days=400)):
        with pytest.raises(OptionRefused, match="timeout is"):
            TaskOptions.of(timeout=bad)
    with pytest.raises(OptionRefused, match="retry_delay is"):
        TaskOptions.of(retry_delay=timedelta(seconds=-1))
    assert Spooler.task(timedelta(seconds=5))(charge).options.postpone == timedelta(seconds=5)


def test_a_call_that_is_awaited(spool: Path) -> None:
    """The error says that the task was sent, and how to call it. In all other respects, the id is a plain string."""

    async def await_it() -> None:
        await note(1)  # type: ignore[misc]

    with pytest.raises(TypeError, match=r"a task's call returns its id.*has been sent\. Call the task without await"):
        asyncio.run(await_it())
    assert len(Spooler.get_tasks()) == 1
    sent = [note(2), Spooler.send_message_raw("text")]
    assert [type(pickle.loads(pickle.dumps(one))) for one in sent] == [str, str]
    assert json.loads(json.dumps(sent)) == sent
    assert Spooler.get_tasks()[1:] == sent
