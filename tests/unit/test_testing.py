"""The tools for tests: the clock, running tasks in this process, the pytest plugin, and the soundness of the suite."""

import asyncio
import subprocess
import sys
import textwrap
import threading
from collections import Counter
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from unspool import ResultRescheduled, Spooler, inspection, raw_message, registry, settings
from unspool.backends.memory import MemoryBackend
from unspool.backends.spool import SpoolBackend
from unspool.codec import encode
from unspool.errors import ConfigurationError, NoSpooler
from unspool.message import Message, Refusal, State, Verdict
from unspool.testing import (
    BackendConformance,
    FakeClock,
    TemporarySpooler,
    override_settings,
    plugin,
    run_all,
    temporary_spooler,
)
from unspool.testing.exchange import claim_one, sealed

ran: list[Any] = []


@Spooler.task(retry_delay=0, max_attempts=3)
def note(what: Any) -> Any:
    """Note the argument, and return or raise it."""
    ran.append(what)
    if isinstance(what, str):
        raise ValueError(what)
    return what


@Spooler.task
def more(count: int) -> bool:
    """Send this task again until the count is zero."""
    ran.append(count)
    if count:
        more(count - 1)
    return True


@Spooler.task
async def later(what: Any) -> Any:
    """Note the argument, on an event loop."""
    await asyncio.sleep(0)
    ran.append(what)
    return what


@Spooler.task
def hopeless() -> None:
    """Fail, with the default options."""
    raise OSError("again")


@Spooler.task
def leave() -> None:
    """Try to end the process."""
    sys.exit(3)


@Spooler.task
def interrupt() -> None:
    """Press Ctrl-C while the task runs."""
    raise KeyboardInterrupt


@pytest.fixture(autouse=True)
def nothing_ran() -> None:
    ran.clear()


@pytest.fixture
def memory() -> MemoryBackend:
    return MemoryBackend()


class TestFakeClock:
    def test_it_stands_still(self) -> None:
        """It returns the same time until it is advanced, and then the sum."""
        clock = FakeClock(100.0)
        assert (clock(), clock()) == (100.0, 100.0)
        assert clock.advance(2.5) == clock() == 102.5

    def test_it_does_not_go_back(self) -> None:
        """A negative step is an error of the test."""
        with pytest.raises(ValueError, match="back by 1 s"):
            FakeClock().advance(-1)


class Munch(dict[str, Any]):
    """An object that has any attribute."""

    def __getattr__(self, name: str) -> Any:
        return self.setdefault(name, Munch())


@Spooler.task
def munch() -> Any:
    """Return such an object."""
    return Munch()


class TestRunAll:
    def test_a_result_is_not_asked_for_anything(self, memory: MemoryBackend) -> None:
        """As in a worker, an object that has any attribute is a result, and is not awaited."""
        memory.send([sealed(encode(munch.message()))])
        (run,) = run_all(memory)
        assert (run.verdict, run.result) == (Verdict.PROCESSED, {})

    def test_in_order_with_results(self, memory: MemoryBackend) -> None:
        """All ready tasks run in order, and the result of each run is returned."""
        ids = memory.send(
            [sealed(encode(note.using(priority=9).message(1))), sealed(encode(note.using(priority=1).message(None)))]
        )
        skipped, processed = run_all(memory)
        assert ran == [None, 1]
        assert (skipped.id, skipped.verdict, skipped.result) == (ids[1], Verdict.SKIPPED, None)
        assert (processed.id, processed.verdict, processed.result) == (ids[0], Verdict.PROCESSED, 1)
        assert processed.task == f"{__name__}:note"
        assert (processed.attempt, processed.exception, processed.error) == (1, None, "")
        assert run_all(memory) == []

    def test_a_failing_one_until_it_is_dead(self, memory: MemoryBackend) -> None:
        """A task that is ready again at once runs again, with its exception and traceback each time."""
        memory.send([sealed(encode(note.message("no")))])
        runs = run_all(memory)
        assert [run.verdict for run in runs] == [Verdict.RESCHEDULED, Verdict.RESCHEDULED, Verdict.DEAD]
        assert [run.attempt for run in runs] == [1, 2, 3]
        assert isinstance(runs[0].exception, ValueError)
        assert "Traceback" in runs[0].error
        assert memory.counts().tasks[State.DEAD] == 1

    def test_deferred_ones_stay(self) -> None:
        """Tasks that are not due by the backend's clock stay, until the clock is advanced."""
        clock = FakeClock()
        memory = MemoryBackend(clock=clock)
        memory.send([sealed(encode(Message("raw", due=clock() + 10)))])
        assert run_all(memory, clock=clock) == []
        clock.advance(10)
        assert [run.task for run in run_all(memory, clock=clock)] == ["raw"]

    def test_what_tasks_spool_is_run_too(self, unspool_spooler: TemporarySpooler) -> None:
        """This continues until none is left."""
        more(3)
        assert len(unspool_spooler.run()) == 4
        assert ran == [3, 2, 1, 0]

    def test_for_ever(self, unspool_spooler: TemporarySpooler) -> None:
        """A task that sends itself forever raises an error, and its last run is not begun."""
        more(100)
        with pytest.raises(RuntimeError, match="5 runs"):
            unspool_spooler.run(limit=5)
        (waiting,) = unspool_spooler.tasks()
        assert (waiting.args, waiting.attempts) == ((95,), 0)

    def test_coroutines(self, memory: MemoryBackend) -> None:
        """An ``async def`` task is awaited, also in a test that runs an event loop."""
        memory.send([sealed(encode(later.message(7)))])

        async def test() -> int:
            (run,) = run_all(memory)
            assert run.verdict is Verdict.PROCESSED
            return int(run.result)

        assert asyncio.run(test()) == 7
        assert ran == [7]

    def test_what_it_cannot_run(self, memory: MemoryBackend) -> None:
        """A task without a handler is not an error of the test: its run says what is missing."""
        memory.send([sealed(encode(Message("ucfg_no_such_type")))])
        (run,) = run_all(memory)
        assert run.verdict is Verdict.RESCHEDULED
        assert "no_such_type" in run.error

    def test_exit_is_a_failure(self, memory: MemoryBackend) -> None:
        """``sys.exit()`` in a task fails the task, as in a worker, and not the test."""
        memory.send([sealed(encode(leave.message()))])
        (run,) = run_all(memory)
        assert isinstance(run.exception, SystemExit)
        assert run.verdict is Verdict.RESCHEDULED

    def test_interrupted(self, memory: MemoryBackend) -> None:
        """Ctrl-C ends the test, and the task is returned without a counted attempt."""
        (id,) = memory.send([sealed(encode(interrupt.message()))])
        with pytest.raises(KeyboardInterrupt):
            run_all(memory)
        entry = inspection.find(memory, id)
        assert entry is not None
        assert (entry.state, entry.attempts) == (State.READY, 0)

    def test_what_somebody_else_runs(self, tmp_path: Path) -> None:
        """A task that another worker holds is skipped."""
        backend, other = (SpoolBackend(str(tmp_path), durable=False) for _ in range(2))
        backend.send([sealed(encode(note.message(1))), sealed(encode(note.message(2)))])
        feed = other.feed()
        while feed.refresh().more:
            pass
        (ticket,) = feed.take(1)
        assert not isinstance(claim_one(other, ticket.ref), Refusal)
        assert [run.result for run in run_all(backend)] == [2]
        feed.close()
        backend.close()
        other.close()


class TestSpoolerFixture:
    def test_what_was_spooled(self, unspool_spooler: TemporarySpooler) -> None:
        """Waiting tasks are returned in order of execution, with their arguments."""
        note(1)
        id = note.using(priority=5).enqueue(what=ResultRescheduled)
        Spooler.send_message_raw("text", payload={"a": 1}, priority=7)
        first, second, third = unspool_spooler.tasks()
        assert (first.id, first.task, first.args, first.kwargs) == (
            id, f"{__name__}:note", (), {"what": ResultRescheduled},
        )  # fmt: skip
        assert (first.priority, first.state, first.attempts, first.payload) == (5, State.READY, 0, None)
        assert (second.task, second.args, second.kwargs, second.payload) == ("text", (), {}, {"a": 1})
        assert (third.args, third.priority) == ((1,), None)

    def test_it_is_the_default(self, unspool_spooler: TemporarySpooler) -> None:
        """It is the only configured spooler, and a real directory."""
        assert Spooler.get_spoolers() == [Spooler(unspool_spooler.name)]
        assert Path(note(1)).parent == Path(unspool_spooler.name)

    def test_settings_are_as_before(self, tmp_path: Path) -> None:
        """After the test, the settings of ``configure`` are in force again."""
        settings.configure(spoolers=[tmp_path / "own"], period=5)
        before = settings.current()
        with temporary_spooler(tmp_path / "other"):
            assert note(1).startswith(str(tmp_path / "other"))
            assert settings.current().period == 5
        assert settings.current() == before
        assert note(1).startswith(str(tmp_path / "own"))

    def test_tasks_of_other_spoolers_are_caught(self, tmp_path: Path, unspool_spooler: TemporarySpooler) -> None:
        """This includes a path, a base name, a URL and a transaction: no test sends to a real spooler."""
        real = tmp_path / "prod" / "mail"
        settings.configure(spoolers=[tmp_path / "prod" / "first", real])
        named = Spooler.get_by_basename("mail")
        assert named is not None
        ids = [
            note.using(spooler=named)(1),
            note.using(spooler=real)(2),
            note.using(spooler="postgresql://db/app?spooler=mail")(3),
            note.using(spooler="not configured")(4),
            note.using(spooler="postgresql://db/app?spooler=mail", connection=object())(5),
        ]
        assert not (tmp_path / "prod").exists()
        assert all(id.startswith(unspool_spooler.name) for id in ids)
        assert [one.args for one in unspool_spooler.tasks()] == [(1,), (2,), (3,), (5,), (4,)]
        assert [one.args for one in unspool_spooler.tasks("not configured")] == [(4,)]
        assert [one.args for one in unspool_spooler.tasks(real)] == [(1,), (2,)]
        assert {one.spooler for one in unspool_spooler.tasks(real)} == {str(real)}
        assert Spooler.read_task_file(ids[2])["function"] == note.name
        assert Spooler.get_tasks() == ids[:2]
        assert len(unspool_spooler.run()) == 5

    def test_time_is_moved(self, unspool_spooler: TemporarySpooler) -> None:
        """Postponed tasks, second attempts and dead tasks come without waiting. Later delays count from then on."""
        fails = note.using(postpone=timedelta(hours=2))
        fails("no")
        assert unspool_spooler.run(advance=3600) == []
        [run] = unspool_spooler.run(advance=timedelta(hours=1))[:1]
        assert (run.verdict, run.attempt) == (Verdict.RESCHEDULED, 1)
        assert unspool_spooler.backend.counts().tasks[State.DEAD] == 1
        note.using(postpone=timedelta(minutes=1))(1)
        assert unspool_spooler.run(advance=59) == []
        assert [run.verdict for run in unspool_spooler.run(advance=1)] == [Verdict.PROCESSED]

    def test_attempts_of_the_default_options(self, unspool_spooler: TemporarySpooler) -> None:
        """With one hour at a time, a failing task has its twenty attempts and is dead."""
        hopeless()
        verdicts = [run.verdict for _ in range(20) for run in unspool_spooler.run(advance=2 * 3600)]
        assert verdicts == [Verdict.RESCHEDULED] * 19 + [Verdict.DEAD]

    def test_without_pytest(self) -> None:
        """A context manager with its own directory, which is removed at the end together with its spoolers."""
        with temporary_spooler() as spooler:
            note(1)
            assert len(spooler.tasks()) == 1
            assert Path(spooler.name).is_dir()
        assert not Path(spooler.name).exists()
        with pytest.raises(NoSpooler):
            note(1)

    @pytest.mark.parametrize("threads", [0, 1])
    def test_many_tests_hold_nothing(self, tmp_path: Path, threads: int) -> None:
        """It closes what it has opened, also if a thread lives on: thousands of tests do not run out of descriptors."""
        over = threading.Event()
        for _ in range(threads):
            threading.Thread(target=over.wait).start()

        def descriptors() -> int:
            return len(list(Path("/proc/self/fd").iterdir()))

        counts = []
        for number in range(3):
            with temporary_spooler(str(tmp_path / str(number))) as spooler:
                note.using(priority=1)(1)
                spooler.run()
            counts.append(descriptors())
        over.set()
        assert counts[0] == counts[-1]

    def test_send_many(self, unspool_spooler: TemporarySpooler) -> None:
        """Batches arrive there too, in order."""
        ids = Spooler.send_many([raw_message(f"message {number}") for number in range(5)])
        assert [spooled.id for spooled in unspool_spooler.tasks()] == ids


class TestPlugin:
    def test_the_documented_example(self, pytester: pytest.Pytester) -> None:
        """The example in the docstring of the plugin works in a pytest without configuration."""
        doc = plugin.__doc__
        assert doc is not None
        example = doc.partition(".. code-block:: python\n")[2].partition("No setup is needed")[0]
        pytester.makepyfile(
            myapp="""
            from unspool import Spooler

            @Spooler.task
            def send_mail(to):
                return True

            def signup(address):
                send_mail(address)
            """,
            test_example=textwrap.dedent(example),
        )
        result = pytester.runpytest_subprocess("-W", "error", "-p", "no:cacheprovider")
        result.assert_outcomes(passed=1)

    def test_it_is_light(self) -> None:
        """It is loaded in every pytest run, so it imports no backend, nor anything slow."""
        heavy = (
            "asyncio sqlite3 click rich inotify_simple hypothesis unspool.backends.spool unspool.testing.conformance"
        )
        code = (
            "import sys, pytest; before = set(sys.modules); import unspool.testing.plugin; "
            f"print(*set('{heavy}'.split()) & (set(sys.modules) - before))"
        )
        answer = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
        assert answer.stdout.split() == []


def test_no_test_of_the_suite_hides_another() -> None:
    """The suite is composed by inheritance, so a test could silently replace another one with its name."""
    names = Counter(name for part in BackendConformance.__mro__ for name in vars(part) if name.startswith("test_"))
    assert [name for name, count in names.items() if count > 1] == []
    assert len(names) > 80


def test_every_test_of_the_suite_says_what_it_proves() -> None:
    """For authors of backends, the docstrings are the contract."""
    assert [
        name
        for name in dir(BackendConformance)
        if name.startswith("test_") and not getattr(BackendConformance, name).__doc__
    ] == []


def test_settings_for_a_block(tmp_path: Path) -> None:
    """They replace those of ``configure``. At the end, also after an error, they and everything that the block has
    configured are removed. The backends are those of the current settings.
    """
    settings.configure(spoolers=[tmp_path / "mail"], period=5)
    before, backend = settings.current(), registry.backend()

    def fail() -> None:
        with override_settings(spoolers=[tmp_path / "other"], period=None):
            assert (settings.current().period, registry.backend().name) == (300.0, str(tmp_path / "other"))
            settings.configure(durability="relaxed")
            raise LookupError

    with pytest.raises(LookupError):
        fail()
    assert settings.current() == before
    assert registry.backend().name == backend.name
    with pytest.raises(ConfigurationError), override_settings(period="never"):
        pass
    assert settings.current() == before
