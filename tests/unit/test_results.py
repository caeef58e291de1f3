"""The results that a task can return."""

import pytest

from unspool import ResultProcessed, ResultRescheduled, ResultSkipped, SpoolerTask, TaskResult

KINDS = [TaskResult, ResultProcessed, ResultSkipped, ResultRescheduled]


@pytest.mark.parametrize("kind", KINDS)
def test_it_keeps_result_and_exception(kind: type[TaskResult]) -> None:
    """The result is given by position or name, the exception by name, and both are None if not given. ``repr`` shows
    them.
    """
    error = ValueError("x")
    full = kind(5, exception=error)
    assert (full.result, full.exception) == (5, error)
    assert repr(full) == f"{kind.__name__}(result=5, exception=ValueError('x'))"
    empty = kind()
    assert (empty.result, empty.exception) == (None, None)
    assert kind(result=5).result == 5
    with pytest.raises(TypeError):
        kind(5, error)  # type: ignore[misc]


@pytest.mark.parametrize("kind", KINDS)
def test_all_are_task_results(kind: type[TaskResult]) -> None:
    """One base class, so that one check finds them all."""
    assert issubclass(kind, TaskResult)


def test_uwsgis_codes() -> None:
    """-2 is done, -1 again. Skipped is done for uWSGI too, which would otherwise offer it forever."""
    assert [kind.code_uwsgi for kind in KINDS] == [None, -2, -2, -1]


def test_a_task_has_them_at_hand() -> None:
    """They are ``mark_…`` of every task."""
    task = SpoolerTask("name", "message", None)
    assert task.mark_processed is ResultProcessed
    assert task.mark_skipped is ResultSkipped
    assert task.mark_rescheduled is ResultRescheduled


@pytest.mark.parametrize("kind", KINDS)
def test_an_exception_is_an_exception(kind: type[TaskResult]) -> None:
    """Anything else is refused by the constructor, and named."""
    with pytest.raises(TypeError, match=f"{kind.__name__} was given exception='oops', which is not an exception"):
        kind(exception="oops")  # type: ignore[arg-type]
