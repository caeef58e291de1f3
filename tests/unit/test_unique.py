"""The options of unique tasks, and the keys that follow from them."""

import datetime
import uuid
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from unspool import Spooler, raw_message
from unspool.backends.memory import MemoryBackend
from unspool.errors import OptionRefused, PayloadRefused
from unspool.functions import FunctionTask
from unspool.message import Message, Unique
from unspool.options import TaskOptions
from unspool.testing import FakeClock


def report(tenant_id: int, day: Any = None, *, mail: bool = False) -> None:
    """Return nothing; a task."""


def task(spooler: Spooler | None = None, **options: Any) -> FunctionTask[..., None]:
    """Return a task of the function with these options."""
    task: FunctionTask[..., None] = FunctionTask(report, TaskOptions.of(**options), _not_sent)
    return task if spooler is None else Spooler.task(**options)(report).using(spooler=spooler)


def _not_sent(*_: object) -> list[str]:
    raise AssertionError


def key(message: Message) -> Unique:
    """Return the key of a message."""
    assert message.unique is not None
    return message.unique


@pytest.fixture
def spooler() -> Spooler:
    """Return a spooler in memory."""
    return Spooler(backend=MemoryBackend("memory://unique"))


def test_the_same_arguments_have_the_same_key() -> None:
    """The default key does not depend on how arguments are passed."""
    one = task(unique="until_done")
    same = [one.message(1), one.message(tenant_id=1), one.message(1, None), one.message(1, mail=False)]
    assert len({key(message) for message in same}) == 1
    other = [one.message(2), one.message("1"), one.message(1, {"a": 1}), one.message(1, mail=True)]
    assert len({key(message) for message in [same[0], *other]}) == 5


@pytest.mark.parametrize(
    "value",
    [
        {"b": 1, "a": [1.5, None]},
        datetime.datetime(2030, 1, 2, tzinfo=datetime.UTC),
        datetime.date(2030, 1, 2),
        uuid.UUID(int=5),
        Decimal("1.50"),
        b"bytes",
        {"one", "two", "three"},
    ],
)
def test_arguments_with_a_canonical_form(value: Any) -> None:
    """Common types of arguments have a canonical form."""
    one = task(unique="until_start")
    assert key(one.message(1, value)) == key(one.message(1, day=value)) != key(one.message(1, "other"))


def test_arguments_without_a_canonical_form() -> None:
    """Other arguments need a key."""
    with pytest.raises(PayloadRefused, match="have no canonical form for a unique key: object is not JSON"):
        task(unique="until_done").message(object())


def test_a_format_string() -> None:
    """A format string takes the arguments that it names, also those that are not passed."""
    one = task(unique="until_done", unique_key="tenant:{tenant_id}:{mail}")
    assert key(one.message(1, "monday")) == key(one.message(tenant_id=1)) != key(one.message(2))


def test_a_function() -> None:
    """A function gets the arguments of the call."""
    one = task(unique="until_done", unique_key=lambda tenant_id, **_: str(tenant_id % 2))
    assert key(one.message(1)) == key(one.message(3, mail=True)) != key(one.message(2))


def test_names_do_not_share_keys() -> None:
    """Tasks of different names have different keys."""
    one = raw_message("one", unique="until_done", unique_key="key")
    assert key(one) != key(raw_message("two", unique="until_done", unique_key="key"))
    assert key(one) == key(raw_message("one", payload=5, unique="until_done", unique_key="key"))


@pytest.mark.parametrize("seconds", [90, 90.0, timedelta(seconds=90), "90s", "1m30s"])
def test_until_a_time(monkeypatch: pytest.MonkeyPatch, seconds: Any) -> None:
    """The time counts from the send."""
    monkeypatch.setattr("unspool.schedule.clock", FakeClock(1000.0))
    assert key(task(unique="until_start", unique_for=seconds).message(1))[1:] == (True, 1090.0)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"unique": True}, "unique is True; it must be one of 'until_start' and 'until_done', or None"),
        ({"unique": "until_end"}, "unique is 'until_end'"),
        ({"unique_key": "x"}, "unique_key is 'x', but unique is not set"),
        ({"unique_for": 5}, "unique_for is 5, but unique is not set"),
        ({"unique": "until_done", "unique_key": 5}, "unique_key is 5; it must be a format string"),
        ({"unique": "until_done", "unique_key": ""}, "unique_key is ''"),
        ({"unique": "until_done", "unique_key": "{tenant}"}, "'tenant' is no parameter; the parameters are: tenant_id"),
        ({"unique": "until_done", "unique_key": "{"}, "which is no format string"),
        ({"unique": "until_done", "unique_for": 0}, "unique_for is 0; it must be seconds"),
        ({"unique": "until_done", "unique_for": "soon"}, "unique_for: 'soon' is not a duration"),
        ({"unique": "until_done", "unique_for": float("nan")}, "unique_for is nan"),
        ({"unique": "until_done", "unique_for": True}, "unique_for is True"),
    ],
)
def test_bad_options(options: dict[str, Any], problem: str) -> None:
    """A bad value is refused when the task is defined, and the error names the option."""
    with pytest.raises(OptionRefused) as refused:
        task(**options)
    assert problem in str(refused.value)


def _raise(*_: object) -> str:
    raise KeyError("tenant")


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (_raise, "unique_key of .*:report raised KeyError: 'tenant'"),
        (lambda *_: 5, "unique_key of .*:report returned 5; it must return a text"),
        ("{tenant_id.name}", "fails with these arguments: AttributeError"),
        ("{tenant_id:%%}", "fails with these arguments: ValueError"),
    ],
)
def test_a_key_that_fails(value: Any, problem: str) -> None:
    """A key that cannot be made is an error of the call."""
    with pytest.raises(OptionRefused, match=problem):
        task(unique="until_done", unique_key=value).message(1)


def test_using_changes_options() -> None:
    """``using`` changes single options of a unique task, and makes a task unique or not."""
    one = task(unique="until_done", unique_key="{tenant_id}")
    assert one.using(unique=None).message(1).unique is None
    assert key(one.using(unique="until_start").message(1)) == key(one.message(1))._replace(start=True)
    assert key(task().using(unique="until_done").message(1)) == key(task(unique="until_done").message(1))
    with pytest.raises(OptionRefused, match="unique is not set"):
        task().using(unique_key="x")


def test_ids(spooler: Spooler) -> None:
    """A duplicate returns the id of the task that is there, and ``new`` tells them apart."""
    one = task(spooler, unique="until_done", unique_key="{tenant_id}")
    first, second, other = one(1), one(1, "monday"), one(2)
    assert first == second != other
    assert [getattr(id, "new", None) for id in (first, second, other)] == [True, False, True]
    assert [getattr(id, "new", None) for id in one.enqueue_many([(1,), (3,)])] == [False, True]
