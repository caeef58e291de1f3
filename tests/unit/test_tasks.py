"""Task functions and task types: decorating, naming, sending, and the registries."""

import functools
import inspect
import os
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from unspool import FunctionTask, Spooler, SpoolerFunctionCallTask, SpoolerTask, configure, spooler_task_types
from unspool.errors import FunctionRefused, NoHandler, NoSpooler, OptionRefused, PayloadRefused
from unspool.functions import call_message, find_function, function_names
from unspool.options import TaskOptions
from unspool.retry import RetryPolicy

HERE = __name__


@Spooler.task
def bare(a: int, b: str = "x", *rest: int, c: bool = False, **more: str) -> tuple[int, str]:
    """What it does."""
    return a, b


@Spooler.task()
def called(a: object = None) -> None:
    """Called without options."""


@Spooler.task(priority=3, timeout=5, max_attempts=2, retry_delay=1, retry_backoff=3, retry_jitter=0, serializer="json")
def with_options(a: object = None) -> None:
    """Called with options."""


@Spooler("/tmp/of-an-instance").task
def of_an_instance() -> None:
    """On a spooler of its own."""


@Spooler("/tmp/of-an-instance").task(priority=1)
def of_an_instance_with_options() -> None:
    """On a spooler of its own, with options."""


class Box:
    """A class with a function in it."""

    @Spooler.task
    def inside() -> str:  # type: ignore[misc]
        """A function that is found by its qualified name."""
        return "inside"


@pytest.fixture(autouse=True)
def registries(own_registries: None) -> None:
    """Remove the tasks that a test registers at its end."""


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    """A configured spooler."""
    path = tmp_path / "mail"
    configure(spoolers=[path, tmp_path / "other"], durability="relaxed")
    return path


def waiting(field: str) -> list[Any]:
    """Return one field of all waiting tasks, in order."""
    return [Spooler.read_task_file(id)[field] for id in Spooler.get_tasks()]


# --- decorating


@pytest.mark.parametrize(
    ("task", "spooler", "options"),
    [
        (bare, None, TaskOptions()),
        (called, None, TaskOptions()),
        (
            with_options,
            None,
            TaskOptions(priority=3, timeout=5, retry=RetryPolicy(2, 1, 3, 0), serializer="json"),
        ),
        (of_an_instance, "/tmp/of-an-instance", TaskOptions()),
        (of_an_instance_with_options, "/tmp/of-an-instance", TaskOptions(priority=1)),
    ],
)
def test_bare_and_called_on_class_and_instance(
    task: FunctionTask[..., Any], spooler: str | None, options: TaskOptions
) -> None:
    """All four forms return a task function. The instance is the spooler that it goes to."""
    assert isinstance(task, FunctionTask)
    assert (str(task.spooler) if task.spooler else None) == spooler
    assert task.options == options


def test_it_looks_like_the_original() -> None:
    """Name, docstring, module, signature and annotations are those of the function."""
    original = bare.__wrapped__  # type: ignore[attr-defined]
    assert bare.__name__ == "bare"  # type: ignore[attr-defined]
    assert bare.__qualname__ == "bare"  # type: ignore[attr-defined]
    assert bare.__module__ == HERE
    assert bare.__doc__ == "What it does."
    assert inspect.signature(bare) == inspect.signature(original)
    assert inspect.get_annotations(bare) == inspect.get_annotations(original)  # type: ignore[arg-type]
    assert repr(bare) == f"<task {HERE}:bare>"
    assert Box.inside.name == f"{HERE}:Box.inside"


def test_call_local_is_the_original() -> None:
    """It runs directly, with its result and its exceptions, and without a spooler."""
    assert bare.call_local(1, "y", 2, c=True, d="z") == (1, "y")
    with pytest.raises(TypeError, match="missing 1 required positional argument"):
        bare.call_local()  # type: ignore[call-arg]


def test_a_lambda_is_refused() -> None:
    """No worker could find it. The error says what to do."""
    with pytest.raises(FunctionRefused, match=r"is a lambda.*top of a module"):
        Spooler.task(lambda: None)


def test_a_local_function_is_refused() -> None:
    """It is refused for the same reason, however it is decorated."""

    def local() -> None: ...

    async def alocal() -> None: ...

    for function in (local, alocal):
        for decorate in (Spooler.task, Spooler.task(priority=1), Spooler("/tmp/x").task):
            with pytest.raises(FunctionRefused, match="defined inside another function"):
                decorate(function)


@pytest.mark.parametrize("other", [5, "name", Box, functools.partial(print, 1), Box()])
def test_what_is_no_function_is_refused(other: Any) -> None:
    """A class, a partial and a callable object have no name by which a worker could find them."""
    with pytest.raises(FunctionRefused, match="is not a function"):
        Spooler.task()(other)


@pytest.mark.parametrize(
    "option",
    [
        {"priority": -1},
        {"priority": "high"},
        {"priority": True},
        {"postpone": 5},
        {"postpone": timedelta.max},
        {"max_attempts": 0},
        {"retry_delay": -1},
        {"retry_backoff": 0.5},
        {"retry_jitter": 2},
        {"timeout": 0},
        {"timeout": -1},
        {"timeout": "5"},
        {"timeout": True},
        {"timeout": float("inf")},
        {"timeout": float("nan")},
        {"timeout": 1e300},
        {"serializer": "yaml"},
        {"serializer": None},
        {"retries": 3},
        {"max_delay": 3},
        {"spooler": "mail"},
    ],
)
def test_an_option_that_cannot_be_is_refused(option: dict[str, Any]) -> None:
    """It is refused at decoration, before there is any task. The error names the option, also an unknown one."""
    ((name, _),) = option.items()
    with pytest.raises(OptionRefused, match=name):
        Spooler.task(**option)


# --- names


def run_python(place: Path, *arguments: str) -> str:
    """Return the output of another interpreter."""
    ended = subprocess.run(
        [sys.executable, *arguments],
        cwd=place,
        env={**os.environ, "UNSPOOL_SPOOLERS": "mail", "UNSPOOL_DURABILITY": "relaxed"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.strip()


SCRIPT = """
from unspool import Spooler

@Spooler.task
def run_me():
    return True

if __name__ == "__main__":
    print(run_me.name, Spooler.read_task_file(run_me())["function"])
"""


def test_a_scripts_functions_are_named_by_its_file(tmp_path: Path) -> None:
    """A worker imports the script as a module of that name, and not as ``__main__``."""
    (tmp_path / "jobs.py").write_text(SCRIPT)
    assert run_python(tmp_path, "jobs.py") == "jobs:run_me jobs:run_me"
    assert run_python(tmp_path, str(tmp_path / "jobs.py")) == "jobs:run_me jobs:run_me"


def test_a_module_that_is_run_keeps_its_full_name(tmp_path: Path) -> None:
    """This includes ``python -m``, in a package and of a package."""
    package = tmp_path / "app"
    package.mkdir()
    for name in ("__init__", "jobs", "__main__"):
        (package / f"{name}.py").write_text("" if name == "__init__" else SCRIPT)
    assert run_python(tmp_path, "-m", "app.jobs") == "app.jobs:run_me app.jobs:run_me"
    assert run_python(tmp_path, "-m", "app") == "app.__main__:run_me app.__main__:run_me"


def test_functions_are_found_by_full_and_bare_name() -> None:
    """A function is found by ``module:qualname``, and by the names of other programs. The error names a missing one."""
    assert find_function(f"{HERE}:bare") is bare
    assert find_function(f"{HERE}:Box.inside") is Box.inside
    assert find_function("with_options") is with_options
    assert {f"{HERE}:bare", f"{HERE}:Box.inside"} <= set(function_names())
    assert function_names() == sorted(function_names())
    for name in (f"{HERE}:gone", "Box.inside", ""):
        with pytest.raises(NoHandler, match=repr(name)):
            find_function(name)


# --- sending


def test_a_call_spools(spool: Path) -> None:
    """A call and ``enqueue`` return the id, and do not run the function."""
    ids = [bare(1, "y"), bare.enqueue(2)]
    assert [os.path.dirname(id) for id in ids] == [str(spool)] * 2
    assert Spooler.get_tasks() == ids
    assert waiting("function") == [f"{HERE}:bare"] * 2


def test_without_a_spooler_the_error_says_what_to_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is created anywhere."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(NoSpooler, match="UNSPOOL_SPOOLERS"):
        bare(1)
    assert list(tmp_path.iterdir()) == []


def test_options_go_with_the_call(spool: Path) -> None:
    """It has the priority and serialiser of the task. A timedelta counts from each call."""
    with_options("a")
    assert waiting("priority") == [3]
    assert waiting("unspool_codec") == ["json"]
    later = called.using(postpone=timedelta(hours=1))
    due = [later.message().due, later.message().due]
    assert None not in due
    assert due[0] < due[1]  # type: ignore[operator]


def test_using_is_the_same_task_with_other_options(spool: Path, tmp_path: Path) -> None:
    """It can be called, enqueued, and changed again. The task itself is unchanged, also for workers."""
    due = datetime(2099, 1, 1, tzinfo=UTC)
    other = with_options.using(priority=7, postpone=due, spooler="other")
    assert other.options.priority == 7
    assert with_options.options.priority == 3
    assert find_function(with_options.name) is with_options
    assert other.name == with_options.name
    assert other.call_local() is None
    assert os.path.dirname(other("a")) == str(tmp_path / "other" / "7")
    assert os.path.dirname(other.enqueue("a")) == str(tmp_path / "other" / "7")
    assert waiting("due") == [due.timestamp()] * 2
    again = other.using(priority=None)
    assert (again.options.priority, again.options.postpone, again.spooler) == (None, due, "other")
    assert again.options.retry == with_options.options.retry


def test_using_takes_a_spooler_object_and_a_path(spool: Path, tmp_path: Path) -> None:
    """It sends as ``send_message_raw`` does."""
    for spooler in (Spooler(str(tmp_path / "third")), str(tmp_path / "third")):
        assert os.path.dirname(bare.using(spooler=spooler)(1)) == str(tmp_path / "third")


@pytest.mark.parametrize(
    "option", [{"priority": -1}, {"postpone": "soon"}, {"serializer": "yaml"}, {"timeout": 5}, {"nonsense": 1}]
)
def test_using_refuses(option: dict[str, Any]) -> None:
    """Invalid values, unknown options, and options of the run, which the worker reads from the task."""
    ((name, _),) = option.items()
    with pytest.raises(OptionRefused, match=name):
        bare.using(**option)


def test_enqueue_many(spool: Path) -> None:
    """Each call is a tuple or list of arguments, a mapping of keyword arguments, or one argument. The ids are
    in order.
    """
    ids = bare.enqueue_many([(1, "y"), [2], {"a": 3, "b": "z"}, 4, "five"])
    assert Spooler.get_tasks() == ids
    assert len(set(ids)) == 5
    assert bare.enqueue_many([]) == []


def test_enqueue_many_is_refused_before_anything_is_sent(spool: Path) -> None:
    """If the last call cannot be sent, none is."""
    with pytest.raises(PayloadRefused, match="argument 1 of"):
        called.enqueue_many([1, 2, lambda: None])
    assert Spooler.get_tasks() == []


def test_a_message_of_a_call() -> None:
    """It is the message that the call would send, for ``send_many``. Nothing is sent."""
    message = with_options.message("a")
    assert message == call_message(with_options.name, ("a",), {}, 3, None, "json")
    assert message.payload["func"] == "with_options"


def test_a_message_by_name_alone() -> None:
    """A program that does not have the function can send its call."""
    message = call_message("app.mail:Box.send", (1,), {"b": 2})
    assert (message.message, message.task) == ("ucfg_fcall", "app.mail:Box.send")
    assert (message.payload["func"], message.payload["arg"], message.payload["kwg"]) == ("send", (1,), {"b": 2})


# --- types


def test_the_types_on_import(tmp_path: Path) -> None:
    """A new interpreter has exactly the one for function calls."""
    code = (
        "import unspool; from uwsgiconf.runtime import spooler; "
        "print(unspool.spooler_task_types == {'fcall': spooler.SpoolerFunctionCallTask})"
    )
    assert run_python(tmp_path, "-c", code) == "True"
    assert SpoolerFunctionCallTask.type_id == "fcall"


def test_heirs_are_registered() -> None:
    """They are registered by ``type_id`` when they are defined, except those without one. A subclass replaces
    its base.
    """

    before = dict(spooler_task_types)

    class Base(SpoolerTask):
        """A common base without an id."""

    class Mail(Base):
        type_id = "mail"

    assert spooler_task_types == before | {"mail": Mail}

    class BetterMail(Mail):
        """A subclass with the inherited id."""

    assert spooler_task_types["mail"] is BetterMail


def test_an_heir_that_cannot_be_run_is_refused() -> None:
    """It is refused when it is defined or, if its options are changed later, when its task is about to run."""
    with pytest.raises(OptionRefused, match=r"options of .*Limited is \{'timeout': 5\}; make them with TaskOptions.of"):

        class Limited(SpoolerTask):
            options = {"timeout": 5}  # type: ignore[assignment]  # noqa: RUF012

    with pytest.raises(OptionRefused, match=r"type_id of .*Numbered is 5; it must be a string"):

        class Numbered(SpoolerTask):
            type_id = 5  # type: ignore[assignment]

    class Spoilt(SpoolerTask):
        """A type whose options are changed later."""

    Spoilt.options = None  # type: ignore[assignment]
    with pytest.raises(OptionRefused, match=r"options of .*Spoilt is None"):
        Spoilt("name", "message", None).run_options()


def test_a_task_keeps_what_it_was_made_of() -> None:
    """It has name, message and payload, and is processed unless a subclass returns something else."""
    task = SpoolerTask("name", "message", {"k": 1})
    assert (task.name, task.message, task.payload) == ("name", "message", {"k": 1})
    assert task.process() is True
    assert task.run_options() == TaskOptions()


def test_a_function_call_is_processed_by_calling() -> None:
    """It has the result and the options of the function."""
    task = SpoolerFunctionCallTask("name", "ucfg_fcall", {"func": bare.name, "arg": (1,), "kwg": {"b": "y"}})
    assert task.process() == (1, "y")
    assert task.run_options() is bare.options
    gone = SpoolerFunctionCallTask("name", "ucfg_fcall", {"func": "app:gone", "arg": (), "kwg": {}})
    for ask in (gone.process, gone.run_options):
        asking: Callable[[], object] = ask
        with pytest.raises(NoHandler, match="app:gone"):
            asking()
