"""Pages of tasks and runs."""

from collections.abc import Iterator

import pytest

from ... import inspection
from ...backends.base import Backend
from ...backends.change import Remove, RunNow
from ...backends.page import Query, RunQuery, TaskQuery
from ...errors import OptionRefused
from ...message import Bury, Entry, Record, Retry, State, Verdict
from ..clock import FakeClock
from .harness import BackendTests, Queue
from .listing import one_of_each

__all__ = ["PageTests"]


def _pages(backend: Backend, query: Query, size: int) -> Iterator[tuple[Entry | Record, ...]]:
    """Yield the pages of a query."""
    after = ""
    while True:
        page = backend.page(query, after, size)
        yield page.tasks or page.runs
        after = page.after
        if not after:
            return


def _fill(queue: Queue) -> None:
    """Add tasks in all states. The due times of some differ from the times at which they were sent."""
    one_of_each(queue)
    for number in range(4):
        queue.send(f"failed {number}", priority=number % 2)
        queue.end(queue.begin(), Retry(queue.clock() + 1 + number % 2))
    for number in range(6):
        queue.send(f"ready {number}", priority=(None, 1, 0)[number % 3])
        queue.send(f"deferred {number}", priority=number % 2, due=queue.clock() + 500)
    queue.clock.advance(2)


class PageTests(BackendTests):
    """``Backend.page``, and the cursors of its pages."""

    @pytest.mark.parametrize("size", [1, 2, 3, 7, 100])
    def test_pages_of_tasks(self, queue: Queue, size: int) -> None:
        """The pages are the parts of the whole listing, in its order."""
        _fill(queue)
        whole = list(inspection.tasks(queue.backend))
        pages = list(_pages(queue.backend, TaskQuery(), size))
        assert [entry for page in pages for entry in page] == whole
        assert len(whole) == 21
        assert max(map(len, pages)) <= size

    def test_pages_of_one_state(self, queue: Queue) -> None:
        """The pages of each state have its tasks and no others."""
        _fill(queue)
        for state in State:
            whole = list(inspection.tasks(queue.backend, frozenset({state})))
            pages = _pages(queue.backend, TaskQuery(frozenset({state})), 2)
            assert [entry for page in pages for entry in page] == whole

    def test_a_cursor_of_another_process(self, queue: Queue, other: Backend) -> None:
        """A cursor is valid in all processes."""
        _fill(queue)
        whole = list(inspection.tasks(queue.backend))
        first = queue.backend.page(TaskQuery(), limit=9)
        assert [*first.tasks, *other.page(TaskQuery(), first.after).tasks] == whole

    def test_time_passes_between_pages(self, queue: Queue) -> None:
        """A task that becomes due between two pages is not missed, and is on one page."""
        _fill(queue)
        seen: list[Entry | Record] = []
        for page in _pages(queue.backend, TaskQuery(), 2):
            seen += page
            queue.clock.advance(200)
        assert sorted(entry.id for entry in seen) == sorted(entry.id for entry in inspection.tasks(queue.backend))

    def test_tasks_change_between_pages(self, queue: Queue) -> None:
        """Each unchanged task is on exactly one page, while other tasks are sent, retried and removed."""
        _fill(queue)
        stay = {entry.id for entry in inspection.tasks(queue.backend) if entry.task.startswith("ready")}
        seen: list[str] = []
        for number, page in enumerate(_pages(queue.backend, TaskQuery(), 2)):
            seen += [entry.id for entry in page]
            queue.send(f"new {number}", priority=number % 3)
            others = [entry for entry in inspection.tasks(queue.backend) if entry.id not in stay]
            idle = [entry for entry in others if entry.state is not State.RUNNING]
            if idle:
                queue.backend.change(idle[number % len(idle)].id, (Remove(), RunNow())[number % 2])
            assert number < 100
        assert {id: seen.count(id) for id in stay} == dict.fromkeys(stay, 1)

    def test_each_task_once(self, queue: Queue) -> None:
        """Each id is returned at most once, even if tasks run, fail and are retried while the listing is read."""
        _fill(queue)
        seen: list[str] = []
        for number, entry in enumerate(inspection.tasks(queue.backend, size=2)):
            seen.append(entry.id)
            ready = queue.backend.counts().tasks[State.READY] > 0
            if number % 3 == 0 and ready:
                queue.end(queue.begin(), Retry(queue.clock() + 300))
            elif number % 3 == 1 and ready:
                queue.end(queue.begin(), Bury("gave up"))
            elif entry.state is not State.RUNNING and (now := inspection.find(queue.backend, entry.id)):
                queue.backend.change(now.id, RunNow())
        assert len(seen) == len(set(seen))

    def test_chosen_tasks(self, queue: Queue) -> None:
        """Tasks are chosen by label and by due time, both bounds included, on pages of any size."""
        _fill(queue)
        whole = list(inspection.tasks(queue.backend))
        middle = whole[10].due
        for query in (
            TaskQuery(label="failed 1"),
            TaskQuery(label="none"),
            TaskQuery(since=middle),
            TaskQuery(until=middle),
            TaskQuery(frozenset({State.READY}), since=middle, until=middle),
        ):
            expected = [entry for entry in whole if query.wants(entry)]
            assert [one for page in _pages(queue.backend, query, 2) for one in page] == expected

    @pytest.mark.parametrize("query", [TaskQuery(), RunQuery()])
    @pytest.mark.parametrize("cursor", ["x", "é", "\ud83d", "W10", "bnVsbA", "WzEsMiwzLDQsNV0", "W" * 10_000])
    def test_no_cursor(self, backend: Backend, query: Query, cursor: str) -> None:
        """A text that is not a cursor is refused."""
        with pytest.raises(OptionRefused, match="cursor"):
            backend.page(query, cursor)

    def test_the_envelope_on_request(self, queue: Queue) -> None:
        """The page of one task has its envelope if the query requests it."""
        id = queue.send("task", payload="text")
        assert queue.backend.page(TaskQuery(id=id)).envelope is None
        page = queue.backend.page(TaskQuery(id=id, body=True))
        assert [entry.id for entry in page.tasks] == [id]
        assert page.envelope is not None
        assert queue.backend.page(TaskQuery(frozenset({State.DEAD}), id=id)).tasks == ()

    @pytest.mark.parametrize("size", [1, 2, 5, 100])
    def test_pages_of_runs(self, backend: Backend, clock: FakeClock, size: int) -> None:
        """The pages of the history have all runs, newest first, or the chosen ones."""
        verdicts = [Verdict.PROCESSED, Verdict.RESCHEDULED, Verdict.SKIPPED]
        runs = [
            Record(f"id {number % 4}", f"task {number % 5}", verdicts[number % 3], 1, clock.advance(1), 0.5, 1)
            for number in range(12)
        ]
        backend.record(runs)
        for query in (
            RunQuery(),
            RunQuery(failed=True),
            RunQuery(label="task 3"),
            RunQuery(since=runs[2].started, until=runs[8].started),
        ):
            pages = list(_pages(backend, query, size))
            assert [run for page in pages for run in page] == [run for run in reversed(runs) if query.wants(run)]
            assert max(map(len, pages)) <= size
        of_one = [run for page in _pages(backend, RunQuery(id="id 2"), size) for run in page]
        assert of_one == [runs[10], runs[6], runs[2]]

    def test_runs_are_added_between_pages(self, backend: Backend, clock: FakeClock) -> None:
        """A run that is added after the first page is on none of the others, and each earlier run is on one."""
        runs = [Record("id", "task", Verdict.PROCESSED, number, clock.advance(1), 0.5, 1) for number in range(6)]
        backend.record(runs)
        seen: list[Entry | Record] = []
        for page in _pages(backend, RunQuery(), 2):
            seen += page
            backend.record([Record("new", "task", Verdict.PROCESSED, 1, clock.advance(1), 0.5, 1)])
        assert seen == runs[::-1]
