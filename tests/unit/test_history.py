"""The history of a spool directory: it is limited, delays no task, and need not be complete."""

import os
import shutil
import signal
import sqlite3
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from unspool.backends.page import RunQuery
from unspool.backends.spool.directory import Directory
from unspool.backends.spool.history import History
from unspool.backends.spool.layout import HISTORY, TMP
from unspool.backends.spool.sweep import leftovers
from unspool.errors import SpoolerUnusable
from unspool.message import Record
from unspool.testing import FakeClock

Open = Callable[..., History]


@pytest.fixture
def clock() -> FakeClock:
    """The time, as the test moves it."""
    return FakeClock(1_000_000.0)


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """The path of the database."""
    return tmp_path / "mail" / HISTORY


@pytest.fixture
def opened(tmp_path: Path, clock: FakeClock) -> Iterator[Open]:
    """Return a function that opens histories of the same directory, as different processes do."""
    made: list[History] = []

    def open(limit: int = 100, age: float = 1000.0) -> History:
        made.append(History(Directory(str(tmp_path / "mail")), limit, age, clock))
        return made[-1]

    yield open
    for history in made:
        history.close()


def latest(history: History, limit: int, id: str = "") -> list[Record]:
    """The newest runs, newest first; of one task if an id is given."""
    return list(history.page(RunQuery(id=id), "", limit).runs)


def run(number: int, started: float = 1_000_000.0, id: str | None = None) -> Record:
    """Return one run."""
    return Record(id or f"/mail/task{number}", "app:f", "processed", number, started, 0.5, 4711, "")


def runs(*numbers: int) -> list[Record]:
    """Return several runs."""
    return [run(number) for number in numbers]


def rows(database: Path) -> int:
    """Return the number of rows."""
    with closing(sqlite3.connect(database)) as connection:
        (count,) = connection.execute("SELECT count(*) FROM runs").fetchone()
    return int(count)


def test_newest_first(opened: Open) -> None:
    """All fields are unchanged, of all tasks or one, up to the limit, and visible to other processes."""
    history = opened()
    history.add(runs(1, 2))
    history.add([Record("/mail/5/task", "app:\N{SNOWMAN}", "dead", 20, 1_000_000.0, 0.5, 1, "Traceback\nx"), run(4)])
    for looking in (history, opened()):
        found = latest(looking, 10)
        assert [record.attempt for record in found] == [4, 20, 2, 1]
        assert found[1] == Record("/mail/5/task", "app:\N{SNOWMAN}", "dead", 20, 1_000_000.0, 0.5, 1, "Traceback\nx")
        assert [record.attempt for record in latest(looking, 2)] == [4, 20]
        assert latest(looking, 10, "/mail/task2") == runs(2)
        assert latest(looking, 10, "/mail/gone") == []


def test_looking_makes_nothing(opened: Open, tmp_path: Path) -> None:
    """Without a run, there is neither a database nor a directory."""
    assert latest(opened(), 10) == []
    assert list(tmp_path.iterdir()) == []


def test_it_is_private(opened: Open, database: Path) -> None:
    """Only the owner can read its files, because tracebacks may contain secrets."""
    opened().add(runs(1))
    for path in database.parent.glob("history*"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path


def test_bounded_in_number(opened: Open, database: Path) -> None:
    """It has at most the limit and what is added between two trims, and after a trim exactly the newest runs."""
    history = opened(limit=50)
    history.add(runs(*range(200)))
    assert [record.attempt for record in latest(history, 1000)] == list(range(199, 149, -1))
    for _ in range(11):
        history.add(runs(*range(1_000)))
        assert rows(database) <= 50 + 5_000
    again = opened(limit=50)  # a new writer begins with a trimming
    again.add(runs(7))
    assert rows(database) == 50


def test_a_trim_that_fails_stores_no_row_twice(opened: Open, database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process may hold the database when it is time to trim. The earlier rows are stored once."""
    history = opened()

    def locked(writer: sqlite3.Connection) -> None:
        raise sqlite3.OperationalError("database is locked")

    monkeypatch.setattr(history, "_trim", locked)
    history.add(runs(1, 2))
    assert rows(database) == 2


def test_bounded_in_age(opened: Open, clock: FakeClock, database: Path) -> None:
    """The next trim removes exactly the runs that are too old."""
    history = opened(age=1000.0)
    history.add([run(number, started=clock()) for number in range(5)])
    clock.advance(600)
    history.add([run(number, started=clock()) for number in range(5, 10)])
    clock.advance(600)
    again = opened(age=1000.0)
    again.add([run(10, started=clock())])
    assert sorted(record.attempt for record in latest(again, 100)) == [5, 6, 7, 8, 9, 10]
    clock.advance(5_000)
    opened(age=1000.0).add([run(11, started=clock() - 2_000)])
    assert rows(database) == 0


def test_none_is_kept_where_none_is_wanted(opened: Open, tmp_path: Path) -> None:
    """With a limit of 0, there is no database."""
    history = opened(limit=0)
    history.add(runs(1))
    assert latest(history, 10) == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("damage", ["garbage", "cut", "pages", "a table of another form"])
def test_a_damaged_database_is_set_aside(opened: Open, database: Path, damage: str) -> None:
    """Reading returns what can be read, and raises nothing. Writing begins a new database, and keeps the old one beside
    it.
    """
    first = opened(limit=10_000)
    first.add([run(number, id="/mail/task" + "x" * 500) for number in range(1_000)])
    first.close()
    size = database.stat().st_size
    with database.open("r+b") as file:
        match damage:
            case "garbage":
                file.write(os.urandom(8192))
            case "cut":
                file.truncate(size // 2)
            case "pages":
                file.seek(4096)
                file.write(os.urandom(size - 4096))
            case _:
                file.truncate(0)
                file.write(b"not a database at all, but longer than its header is" * 10)
    history = opened()
    latest(history, 10)
    history.add(runs(1))
    assert latest(history, 10)[0] == run(1)
    assert database.with_name("history.sqlite3.damaged").exists()
    assert rows(database) == 1


def test_rows_of_other_types_are_left_out(opened: Open, database: Path) -> None:
    """Reading returns the valid rows without an error, whatever the others contain: other types, bytes, invalid
    numbers, texts that are not UTF-8.
    """
    opened().add(runs(1, 2))
    odd: list[tuple[object, ...]] = [
        ("b", "odd", "x", 1, "y", "z", ""),
        (b"b", "v", 1, 1.0, 1.0, 1, ""),
        ("b", "v", 1, 9e999, 1.0, 1, ""),
        ("b", "v", 1, 1.0, -9e999, 1, ""),
        ("b", "v", 1.5, 1.0, 1.0, 1, ""),
    ]
    with closing(sqlite3.connect(database)) as connection, connection:
        insert = "INSERT INTO runs (id, task, verdict, attempt, started, duration, pid, error) VALUES ('/mail/task1', "
        connection.executemany(f"{insert} ?, ?, ?, ?, ?, ?, ?)", odd)
        connection.execute(f"{insert} 'b', 'v', 3, 2000000.0, 0.5, 1, CAST(x'ff41' AS TEXT))")
    kept = Record("/mail/task1", "b", "v", 3, 2_000_000.0, 0.5, 1, "\\xffA")
    assert latest(opened(), 10) == [kept, *runs(2, 1)]
    assert latest(opened(), 10, "/mail/task1") == [kept, *runs(1)]


@pytest.mark.parametrize("columns", ["id TEXT", "number INTEGER, id TEXT, task TEXT", "when TEXT"])
def test_a_history_of_another_form(opened: Open, database: Path, columns: str) -> None:
    """Reading returns nothing, and raises nothing. Writing sets the file aside, and begins a new one."""
    database.parent.mkdir(parents=True)
    with closing(sqlite3.connect(database)) as connection:
        connection.execute(f"CREATE TABLE runs ({columns.replace('when', '[when]')})")
    history = opened()
    assert latest(history, 10) == []
    history.add(runs(1))
    assert latest(history, 10) == runs(1)
    assert database.with_name("history.sqlite3.damaged").exists()


def test_odd_lines_in_a_journal(opened: Open, database: Path) -> None:
    """Invalid rows are omitted by a reader and by the next writer. The rows between them are kept."""
    database.parent.mkdir(parents=True)
    lines = [
        run(1).to_json(), '"eightchr"', '{"a":1,"b":2,"c":3,"d":4,"e":5,"f":6,"g":7,"h":8}', "[1]", "null",
        '["a","b","odd","x",1,"y","z",""]', '["a","b","c",1,NaN,1,1,""]', '["a","b","c",[],1,1,1,""]', run(2).to_json(),
        "[" * 100_000, "garbage\udcff", run(3).to_json(),
    ]  # fmt: skip
    (database.parent / "journal-1").write_bytes("\n".join(lines).encode("utf-8", "surrogateescape"))
    assert sorted(latest(opened(), 20)) == runs(1, 2, 3)
    opened().add(runs(4))
    assert not journals(database)
    assert sorted(latest(opened(), 20)) == runs(1, 2, 3, 4)


def test_damage_under_a_writer(opened: Open, database: Path) -> None:
    """The same holds if it appears while the database is in use."""
    history = opened()
    history.add(runs(1, 2))
    for path in database.parent.glob("history*"):
        path.write_bytes(b"garbage" * 1000)
    history.close()
    history.add(runs(3))
    assert latest(history, 10) == runs(3)


def test_readable_while_written(opened: Open, database: Path) -> None:
    """During a transaction, a reader sees the state before it, and does not wait for its end."""
    opened().add(runs(1, 2))
    with closing(sqlite3.connect(database, isolation_level=None)) as writer:
        writer.execute("BEGIN IMMEDIATE")
        writer.execute("UPDATE runs SET verdict = 'half done'")
        assert latest(opened(), 10) == runs(2, 1)
        writer.execute("ROLLBACK")


def test_a_locked_database_is_named(
    opened: Open, database: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A reader that waits in vain for another program returns the runs in journals, and logs why the rest is
    missing.
    """
    monkeypatch.setattr("unspool.backends.spool.history._BUSY", 0.0)
    history = opened()
    history.add(runs(1))
    history.jot(runs(2))
    with closing(sqlite3.connect(database, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        assert latest(opened(), 10) == runs(2)
    assert [record.message for record in caplog.records] == [
        f"history of {database.parents[1]} cannot be read: database is locked"
    ]


def _killed(database: Path, *statements: str) -> None:
    """Execute statements in a process that is then killed."""
    child = os.fork()
    if child == 0:
        try:
            connection = sqlite3.connect(database, isolation_level=None)
            for statement in statements:
                connection.execute(statement)
        finally:
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)


def test_a_writer_that_was_killed_in_a_transaction(opened: Open, database: Path) -> None:
    """Its changes of the database are rolled back, also by a reader."""
    opened(limit=1_000).add(runs(*range(1_000)))
    _killed(database, "PRAGMA cache_size = 1", "BEGIN", "UPDATE runs SET verdict = 'half done'")
    journal = database.with_name(f"{database.name}-journal")
    assert journal.stat().st_size
    assert b"half done" in database.read_bytes()
    assert latest(opened(), 1_000) == runs(*range(999, -1, -1))
    assert not journal.exists() or not journal.stat().st_size


@pytest.mark.parametrize("first", ["reader", "writer"])
def test_a_database_in_wal_mode_is_converted(
    opened: Open, database: Path, first: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Rows that an earlier version had written, and not yet moved from ``-wal`` when it was killed, are kept."""
    history = opened()
    history.add(runs(1))
    history.close()
    _killed(database, "PRAGMA journal_mode = WAL", "UPDATE runs SET attempt = 2, id = '/mail/task2'")
    assert database.with_name(f"{database.name}-wal").stat().st_size
    if first == "reader":
        assert latest(opened(), 10) == runs(2)
    history.add(runs(3))
    assert latest(opened(), 10) == runs(3, 2)
    assert database.read_bytes()[18:20] == b"\1\1"  # no WAL mode
    assert not database.with_name(f"{database.name}-wal").exists()
    assert not caplog.records


def test_a_database_that_is_removed_under_a_writer(opened: Open, database: Path) -> None:
    """The next batch goes into a new one."""
    history = opened()
    history.add(runs(1))
    database.unlink()
    history.add(runs(2))
    assert latest(opened(), 10) == runs(2)
    os.rename(database, database.with_name("other"))
    database.touch(0o600)
    history.add(runs(3))
    assert latest(opened(), 10) == runs(3)


def test_a_fifo_in_the_place_of_the_journal(opened: Open, database: Path) -> None:
    """Neither a writer that has the database open nor a reader waits for it."""
    history = opened()
    history.add(runs(1))
    journal = database.with_name(f"{database.name}-journal")
    journal.unlink()
    os.mkfifo(journal)
    assert latest(opened(), 10) == []
    history.add(runs(2))
    assert latest(opened(), 10) == runs(2)


def test_each_batch_is_seen_whole(opened: Open) -> None:
    """Reading while batches of ten are added returns only whole batches, and more each time."""
    writer, reader = opened(limit=10_000), opened()
    batches = 40

    def write() -> None:
        for batch in range(batches):
            writer.add(runs(*range(batch * 10, batch * 10 + 10)))
        writer.close()  # in its own thread, as SQLite wants it

    thread = threading.Thread(target=write)
    thread.start()
    seen = 0
    while seen < batches * 10 and (thread.is_alive() or seen == 0):
        found = [record.attempt for record in latest(reader, 10_000)]
        assert len(found) % 10 == 0
        assert found == list(range(len(found) - 1, -1, -1))
        assert len(found) >= seen
        seen = len(found)
    thread.join()
    assert len(latest(reader, 10_000)) == batches * 10


def test_two_writers(opened: Open) -> None:
    """Two supervisors of one directory each add their runs."""
    first, second = opened(), opened()
    for number in range(10):
        (first if number % 2 else second).add(runs(number))
    assert [record.attempt for record in latest(first, 100)] == list(range(9, -1, -1))


@pytest.mark.parametrize("written", [True, False])
def test_a_directory_that_is_removed(database: Path, tmp_path: Path, clock: FakeClock, written: bool) -> None:
    """The directory is removed with the history in it, used or not: history alone does not create it again, and begins
    anew in the directory that takes its place.
    """
    directory = Directory(str(tmp_path / "mail"))
    directory.fd("")
    history = History(directory, 100, 1000.0, clock)
    if written:
        history.add(runs(1))
    shutil.rmtree(tmp_path / "mail")
    with pytest.raises(SpoolerUnusable, match="removed"):
        history.add(runs(2))
    assert not (tmp_path / "mail").exists()
    (tmp_path / "mail").mkdir()
    history.add(runs(3))
    assert latest(history, 10) == runs(3)
    assert rows(database) == 1
    history.close()


def journals(database: Path) -> list[Path]:
    """Return the files of runs that are not in the database yet, the oldest first."""
    return sorted(database.parent.glob("journal-*"))


def jot(history: History, count: int) -> list[int]:
    """Write long runs to the journal, and return their numbers, the newest first."""
    for number in range(count):
        history.jot([run(number, started=1_000_000.0 + number)._replace(error="x" * 10_000)])
    return list(range(count - 1, -1, -1))


def test_what_is_jotted_down_waits_for_time(opened: Open, database: Path) -> None:
    """The runs are in files, and shown. A process with time moves the oldest into the database, but none that is
    written to.
    """
    history = opened(limit=1_000)
    numbers = jot(history, 100)
    waiting = journals(database)
    assert len(waiting) == 4
    assert not database.exists()
    for _ in waiting:
        assert [record.attempt for record in latest(opened(), 1_000)] == numbers
        history.tidy()
        assert waiting[0] not in journals(database)
    assert journals(database) == waiting[-1:]
    assert [record.attempt for record in latest(history, 1_000)] == numbers
    assert latest(history, 10, "/mail/task7") == [run(7, started=1_000_007.0)._replace(error="x" * 10_000)]


def test_what_is_jotted_down_is_bounded(opened: Open, database: Path) -> None:
    """A process that never has time leaves some files waiting, but a limited number."""
    history = opened(limit=10_000)
    numbers = jot(history, 1_500)
    assert len(journals(database)) < 40
    assert 0 < rows(database) < 1_500
    assert [record.attempt for record in latest(history, 10_000)] == numbers


@pytest.mark.parametrize("taken_by", ["the next process that jots", "a supervisor's writer"])
def test_what_a_dead_process_jotted_down(opened: Open, database: Path, taken_by: str) -> None:
    """Only a truncated line is lost. The file of a live process is left alone."""
    history = opened()
    child = os.fork()
    if child == 0:
        jot(history, 3)
        os._exit(0)
    os.waitpid(child, 0)
    (left,) = journals(database)
    with left.open("ab") as file:
        file.write(b'["/mail/task4","app')
    history.jot([run(5)])
    alive = set(journals(database)) - {left}
    if taken_by == "the next process that jots":
        history.tidy()
    else:
        opened().add(runs(6))
    assert set(journals(database)) == alive
    found = {record.attempt for record in latest(history, 10)}
    assert found == {0, 1, 2, 5} | ({6} if taken_by == "a supervisor's writer" else set())


def test_a_process_that_is_killed_as_it_begins_a_journal(opened: Open, tmp_path: Path) -> None:
    """Its draft has the number of the process, like all drafts, so a sweep removes it."""
    history = opened()
    child = os.fork()
    if child == 0:
        os.rename = lambda *_, **__: os._exit(0)  # type: ignore[assignment]
        history.jot(runs(1))
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    directory = Directory(str(tmp_path / "mail"))
    drafts = Path(directory.path(TMP))
    assert len(list(drafts.iterdir())) == 1
    for _ in leftovers(directory):
        pass
    assert list(drafts.iterdir()) == []


def test_texts_that_are_none(opened: Open) -> None:
    """Bytes of file names and errors that are not text are kept escaped, in the database and in the journal, and found
    by the id of their task.
    """
    history = opened()
    strange = Record("/mail/\udcff", "app:f", "dead", 1, 1_000_000.0, 0.5, 1, "ValueError: \ud800")
    kept = strange._replace(id="/mail/\\udcff", error="ValueError: \\ud800")
    history.add([run(1), strange, run(2)])
    assert latest(history, 10) == [run(2), kept, run(1)]
    assert latest(history, 10, strange.id) == [kept]
    history.jot([strange._replace(attempt=2, started=1_000_002.0)])
    assert latest(history, 10, strange.id) == [kept._replace(attempt=2, started=1_000_002.0), kept]


def test_a_row_that_cannot_be_kept_costs_no_other(
    opened: Open, database: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It is omitted with a log line. The rest of its batch is stored, and the database stays."""
    history = opened()
    history.add([run(1), run(2)._replace(pid=1 << 70), run(3)._replace(task=None), run(4)])  # type: ignore[arg-type]
    assert latest(history, 10) == [run(4), run(1)]
    assert [record.message.split(":")[0] for record in caplog.records] == [
        "a run of /mail/task2 is left out of history",
        "a run of /mail/task3 is left out of history",
    ]
    assert not database.with_name(f"{database.name}.damaged").exists()
