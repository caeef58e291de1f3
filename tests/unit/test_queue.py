"""The pipe from which all workers take tickets."""

import os
import select
from collections import Counter

import pytest

from unspool.backends.base import REF_SIZE, Ticket
from unspool.runtime.queue import Queue
from unspool.testing.waiting import readable

PATIENCE = 30.0  # seconds after which a ticket that should come has not


@pytest.fixture
def queue() -> Queue:
    """An empty queue, which is closed at the end of the test."""
    return Queue()


def ticket(number: int) -> Ticket:
    """Return a ticket whose fields all depend on its number, with a ref of its own length."""
    return Ticket(number, number / 4, f"{number}/" + "x" * (number % (REF_SIZE - 10)))


def read_all(queue: Queue) -> list[tuple[int, Ticket]]:
    """Return what a worker takes until the supervisor closes the queue."""
    found: list[tuple[int, Ticket]] = []
    while True:
        assert readable(queue.fileno(), PATIENCE), "nothing came, and no end"
        try:
            item = queue.get()
        except BlockingIOError:  # another worker was faster
            continue
        if item is None:
            return found
        found.append(item)


def test_in_the_order_of_putting(queue: Queue) -> None:
    """Each has the index of its spooler, and nothing is lost or altered."""
    items = [(number % 3, ticket(number)) for number in range(50)]
    assert queue.put(items) == []
    assert len(queue) == 50
    assert [queue.get() for _ in range(50)] == items
    with pytest.raises(BlockingIOError):
        queue.get()


@pytest.mark.parametrize(
    "ref", ["", "x" * REF_SIZE, os.fsdecode(b"5/\xff\xfe"), "\N{SNOWMAN}" * (REF_SIZE // 3), "a\0b"]
)
def test_any_ref(queue: Queue, ref: str) -> None:
    """A ref may have up to the maximum size, with any bytes of a file name."""
    item = (65_535, Ticket(10**9, -1.5, ref))
    assert queue.put([item]) == []
    assert queue.get() == item


def test_records_are_whole_with_several_readers(queue: Queue) -> None:
    """Four processes read what one writes: each ticket reaches one of them, complete, and each sees its own in
    order.
    """
    count, results = 5_000, []
    for _ in range(4):
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                queue.close_writer()
                seen = read_all(queue)
                if all(index == item.rank % 7 and item == ticket(item.rank) for index, item in seen):
                    with open(writer, "w") as told:
                        told.write(" ".join(str(item.rank) for _, item in seen))
                    status = 0
            finally:
                os._exit(status)
        os.close(writer)
        results.append((pid, reader))

    waiting = [(number % 7, ticket(number)) for number in range(count)]
    while waiting:
        waiting = queue.put(waiting)
        if waiting:
            room = select.poll()
            room.register(queue.descriptors[1], select.POLLOUT)
            assert room.poll(PATIENCE * 1000), "nobody reads"
    queue.close_writer()

    seen: Counter[int] = Counter()
    for pid, reader in results:
        with open(reader) as told:
            numbers = [int(number) for number in told.read().split()]
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0, "a record was not whole"
        assert numbers == sorted(numbers)
        seen.update(numbers)
    assert seen == Counter(range(count))
    queue.close_reader()


def test_what_finds_no_room_comes_back(queue: Queue) -> None:
    """The queue accepts as many as its capacity. The rest is returned in order, and fits when there is room."""
    items = [(0, ticket(number)) for number in range(queue.capacity + 20)]
    rest = queue.put(items)
    assert rest == items[queue.capacity :]
    assert len(queue) == queue.capacity
    assert queue.put(rest) == rest
    assert [queue.get() for _ in range(32)] == items[:32]
    assert queue.put(rest) == []
    assert queue.recall() == items[32:]


def test_recall(queue: Queue) -> None:
    """Tickets that no worker has taken are returned, and no worker gets them any more."""
    assert queue.recall() == []
    items = [(1, ticket(number)) for number in range(10)]
    queue.put(items)
    assert queue.get() == items[0]
    assert queue.recall() == items[1:]
    assert len(queue) == 0
    with pytest.raises(BlockingIOError):
        queue.get()


def test_closed(queue: Queue) -> None:
    """Workers take the remaining tickets, and then see the end."""
    queue.put([(0, ticket(1))])
    queue.close_writer()
    assert read_all(queue) == [(0, ticket(1))]
    assert queue.get() is None
    assert queue.recall() == []
    queue.close_reader()


def test_some_at_once(queue: Queue) -> None:
    """As many as requested are returned, but at most half of the tickets in the pipe, and the last ones one by one."""
    items = [(0, ticket(number)) for number in range(20)]
    assert queue.put(items) == []
    found = [queue.get_some(8), queue.get_some(8), queue.get_some(1)]
    assert list(map(len, found)) == [8, 6, 1]
    while len(queue):
        found.append(queue.get_some(8))
    assert [item for some in found for item in some] == items
    with pytest.raises(BlockingIOError):
        queue.get_some(8)
    queue.close_writer()
    assert queue.get_some(8) == []
