"""Arguments are checked when a task is sent."""

import functools
import inspect
import itertools
from typing import Any

import pytest

from unspool import Spooler, configure
from unspool.arguments import Arguments
from unspool.errors import PayloadRefused


def none() -> None: ...
def two(a: Any, b: Any) -> None: ...
def default(a: Any, b: Any = 1) -> None: ...
def only(a: Any, *, b: Any) -> None: ...
def only_default(a: Any, *, b: Any = 1) -> None: ...
def rest(a: Any, *b: Any) -> None: ...
def keywords(a: Any, **b: Any) -> None: ...
def everything(*a: Any, **b: Any) -> None: ...
def positional(a: Any, /, b: Any = 1) -> None: ...
def positional_keywords(a: Any, /, **b: Any) -> None: ...


FUNCTIONS = [
    none,
    two,
    default,
    only,
    only_default,
    rest,
    keywords,
    everything,
    positional,
    positional_keywords,
    len,
    "".join,
]
KEYWORDS: list[dict[str, int]] = [{}, {"a": 1}, {"b": 1}, {"a": 1, "b": 2}, {"c": 1}, {"a": 1, "c": 1}]


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda function: function.__name__)
def test_what_python_takes_is_taken_and_nothing_else(function: Any) -> None:
    """The quick check agrees with the signature for each number of arguments and each set of names."""
    arguments, signature = Arguments(function), inspect.signature(function)
    for count, kwargs in itertools.product(range(4), KEYWORDS):
        args = (0,) * count
        try:
            signature.bind(*args, **kwargs)
        except TypeError:
            with pytest.raises(PayloadRefused, match=r"app:f does not take these arguments: .*; its signature is \("):
                arguments.check("app:f", args, kwargs)
        else:
            arguments.check("app:f", args, kwargs)


def test_a_wrapper_counts_as_it_is() -> None:
    """A wrapper may pass some arguments to the function itself."""

    @functools.wraps(two)
    def wrapper(b: Any) -> None:
        two(1, b)

    Arguments(wrapper).check("f", (1,), {})
    with pytest.raises(PayloadRefused, match="too many positional arguments"):
        Arguments(wrapper).check("f", (1, 2), {})


@Spooler.task
def resize(path: str, width: int) -> None:
    """Takes two arguments."""


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda task: task("a.png"), "missing a required argument: 'width'"),
        (lambda task: task("a.png", 1, 2), "too many positional arguments"),
        (
            lambda task: task("a.png", widht=3),
            "'width'|'widht'",
        ),
        (lambda task: task.enqueue("a.png"), "'width'"),
        (lambda task: task.message("a.png"), "'width'"),
        (lambda task: task.using(priority=1)("a.png"), "'width'"),
        (lambda task: task.enqueue_many([("a.png", 1), {"zzz": 1}]), "'path'|'zzz'"),
    ],
)
def test_wrong_arguments_are_refused_when_sent(tmp_path: Any, call: Any, message: str) -> None:
    """Each way of sending raises a TypeError that names the parameter, and nothing is sent."""
    configure(spoolers=[tmp_path / "mail"])
    with pytest.raises(TypeError, match=message):
        call(resize)
    assert Spooler.get_tasks() == []
