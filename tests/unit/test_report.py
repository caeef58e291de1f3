"""The reports of a worker to its supervisor."""

import os
import threading
from collections.abc import Iterator

import pytest

from unspool.message import Record, RefusalKind, Verdict
from unspool.runtime import report
from unspool.runtime.events import (
    Begun,
    Broken,
    Ended,
    Event,
    Failed,
    Leaving,
    Over,
    Ready,
    Refused,
    dump,
    load_records,
)
from unspool.runtime.report import BadReport, Reader, Writer
from unspool.testing.waiting import readable

PATIENCE = 30.0  # seconds after which an event that should come has not
RECORD = Record("/spool/name", "task", "processed", 1, 1.5, 0.25, 7, "")
END_LINE = dump(Ended(1, "name", None, RECORD)).encode()
ENDED = Ended(1, "name", None, RECORD, END_LINE)
FAILED = Failed("why", "where")


@pytest.fixture
def ends() -> Iterator[tuple[Reader, int]]:
    """Return the reader, and the descriptor to write to, which the test may close."""
    reader, writer = os.pipe()
    yield Reader(reader, 2), writer
    for fd in (reader, writer):
        try:
            os.close(fd)
        except OSError:
            continue


def read(reader: Reader, count: int) -> list[Event]:
    """Wait for this number of events, and return them."""
    events: list[Event] = []
    while len(events) < count:
        assert readable(reader.fileno(), PATIENCE), f"{len(events)} events, and then none"
        events += reader.read()
    return events


def test_events_arrive_in_order(ends: tuple[Reader, int]) -> None:
    """With any values of JSON, many are read at once, and then none."""
    reader, fd = ends
    writer = Writer(fd)
    sent: list[Event] = [
        Ready({"/app.py": 1.5}, True),
        Failed("why", "where"),
        Broken("why"),
        Refused(0, "5/name", RefusalKind.UNUSABLE, 1.25, 'line\nbreak "quoted" \N{SNOWMAN}'),
        Begun(1, os.fsdecode(b"\xff"), 5.0),
        Over(1, "name"),
        Leaving(),
    ]
    for event in sent:
        writer.write(event)
    received = reader.read()
    assert received == sent
    assert list(map(type, received)) == list(map(type, sent))
    assert reader.read() == []


def test_lines_by_hand_are_those_of_the_general_encoder(ends: tuple[Reader, int]) -> None:
    """This holds for any numbers: a subclass of float may have another representation than JSON."""

    class Own(float):
        def __repr__(self) -> str:
            return f"Own({float(self)})"

    reader, fd = ends
    writer = Writer(fd)
    record = Record("/spool/5/name", "task", Verdict.RESCHEDULED, 2, 1.5, 0.25, 7, 'line\nbreak "quoted" \N{SNOWMAN}')
    sent: list[Event] = [
        Ended(0, os.fsdecode(b"\xff"), Own(1e300), record),
        Ended(1, "name", None, record),
        Begun(0, os.fsdecode(b"\xff"), 1.25, Own(5), Own(0.5)),
        Begun(1, "name", 1.25, 3600, None),
        Begun(1, "name", 1.25, None, None),
    ]
    for event in sent:
        writer.write(event)
    received = reader.read()
    assert [event._replace(line=b"") if isinstance(event, Ended) else event for event in received] == sent
    assert list(map(type, received)) == list(map(type, sent))


def test_a_part_of_a_line_waits_for_the_rest(ends: tuple[Reader, int]) -> None:
    """This holds wherever a line is cut."""
    reader, fd = ends
    line = b'["failed","why","where"]\n%b\n' % END_LINE
    for cut in range(len(line)):
        os.write(fd, line[:cut])
        events = reader.read()
        assert len(events) == line[:cut].count(b"\n")
        os.write(fd, line[cut:])
        assert events + reader.read() == [FAILED, ENDED]


def test_threads_do_not_mix_their_lines(ends: tuple[Reader, int]) -> None:
    """Lines that exceed the pipe's size arrive complete from several threads."""
    reader, fd = ends
    writer = Writer(fd)

    def tell(name: str) -> None:
        for number in range(20):
            writer.write(Refused(0, name, RefusalKind.GONE, number, name * 50_000))

    threads = [threading.Thread(target=tell, args=[name], daemon=True) for name in "abcd"]
    for thread in threads:
        thread.start()
    events = read(reader, 80)
    for thread in threads:
        thread.join()
    for name in "abcd":
        mine = [event for event in events if isinstance(event, Refused) and event.ref == name]
        assert mine == [Refused(0, name, "gone", number, name * 50_000) for number in range(20)]


def test_events_survive_their_writer(ends: tuple[Reader, int]) -> None:
    """A process reports something and is killed: everything except an unfinished line can be read."""
    reader, fd = ends
    pid = os.fork()
    if pid == 0:
        try:
            Writer(fd).write(Begun(0, "name", 1.5))
            os.write(fd, b'["end",0,"na')
            os.kill(os.getpid(), 9)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -9
    os.close(fd)
    assert reader.read() == [Begun(0, "name", 1.5)]
    assert reader.read() == []


def test_a_supervisor_that_is_gone_hears_nothing(ends: tuple[Reader, int]) -> None:
    """The worker is not disturbed, and notices it elsewhere."""
    reader, fd = ends
    reader.close()
    writer = Writer(fd)
    assert not writer.write(ENDED)
    assert not writer.heard


@pytest.mark.parametrize(
    "line",
    [
        b"oops",
        b"",
        b"\xff\xfe",
        b"[" * 100_000,
        b'["ready"],["ready"]',
        b"[]",
        b"{}",
        b"[[]]",
        b'["unknown"]',
        b'["ready",{"/app.py":"x"},true]',
        b'["begin",2,"name",1.5,null,null]',
        b'["begin",-1,"name",1.5,null,null]',
        b'["begin",true,"name",1.5,null,null]',
        b'["begin",0,"name",NaN,null,null]',
        b'["begin",0,"name",1e999,null,null]',
        b'["begin",0,"name",1%b,null,null]' % (b"0" * 400),
        b'["refused",0,"name","early",1%b,""]' % (b"0" * 400),
        b'["begin",0,"",1.5,null,null]',
        b'["begin",0,"/etc/passwd",1.5,null,null]',
        b'["begin",0,"../name",1.5,null,null]',
        b'["begin",0,"a\\u0000b",1.5,null,null]',
        b'["begin",0,"\\ud800",1.5,null,null]',
        b'["begin",0,"%b",1.5,null,null]' % (b"x" * 481),
        b'["ready",{"/a\\u0000b":1.5},true]',
        b'["leaving",1]',
        b'["over",2,"name"]',
        b'["end"]',
        b'[["end"]]',
        b'["broken"]',
        b'["refused",0,"name","no kind",null,""]',
        END_LINE.replace(b"processed", b"no verdict"),
        END_LINE.replace(b"1.5", b'"1.5"'),
        END_LINE.replace(b'"name"', b"5"),
        b'["end",1,"name",null,{}]',
    ],
)
def test_a_line_that_no_worker_writes_is_refused(ends: tuple[Reader, int], line: bytes) -> None:
    """The events before it are kept, and nothing after it is read: the pipe counts as ended."""
    reader, fd = ends
    os.write(fd, b'%b\n["failed","why","where"]\n' % END_LINE)
    threading.Thread(target=os.write, args=[fd, line + b'\n["failed","why","where"]\n'], daemon=True).start()
    events: list[Event] = []
    refused: BadReport | None = None
    while refused is None:
        assert readable(reader.fileno(), PATIENCE), "it was not refused"
        try:
            events += reader.read()
        except BadReport as error:
            refused = error
            events += error.events
    assert events == [ENDED, FAILED]
    assert repr(line[:20])[2:-1] in str(refused)
    assert reader.ended
    assert reader.read() == []


def test_a_line_without_an_end_is_refused(ends: tuple[Reader, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """It is refused before it fills the supervisor's memory."""
    monkeypatch.setattr(report, "_LONGEST", 1_000)
    reader, fd = ends
    os.write(fd, END_LINE + b"\n" + b"x" * 1_000)
    assert reader.read() == [ENDED]
    os.write(fd, b"x")
    with pytest.raises(BadReport):
        reader.read()


def test_records_are_those_of_the_lines() -> None:
    """The recorder gets the runs from the lines of the workers and from those of the supervisor."""
    other = RECORD._replace(verdict=Verdict.CRASHED, error='line\nbreak "quoted" \N{SNOWMAN}')
    lines = [END_LINE, dump(Ended(0, "", None, other)).encode()]
    assert list(load_records(lines)) == [(1, RECORD), (0, other)]
    assert list(load_records([b""])) == []
