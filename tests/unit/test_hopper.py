"""The number of tickets that wait for the workers."""

from unspool.runtime.hopper import Hopper, is_slow

CAPACITY = 512


def count(hopper: Hopper, waiting: int, now: float = 0.0, ranks: tuple[int, ...] = (), paused: bool = False) -> bool:
    """Count the waiting tickets of a supervisor with 4 workers."""
    return hopper.count(waiting, 0, now, ranks=ranks, paused=paused, workers=4, capacity=CAPACITY)


def test_an_undisturbed_queue_grows_to_its_capacity() -> None:
    """It doubles whenever few tickets are left, and spoolers share the room."""
    hopper = Hopper([False, False], 0.0)
    assert hopper.shares(0, 0) == [32, 32]
    depths = []
    for _ in range(5):
        assert not count(hopper, 0)
        depths.append(sum(hopper.shares(0, 0)))
    assert depths == [128, 256, 512, 512, 512]
    assert not count(hopper, 128)
    assert hopper.shares(128, 0) == [192, 192]
    assert hopper.shares(CAPACITY, 0) == [0, 0]


def test_a_small_rest_of_room_is_given_to_each_spooler() -> None:
    """Otherwise, a queue of many spoolers would never be full."""
    assert Hopper([False] * 3, 0.0).shares(63, 0) == [1, 1, 1]


def test_a_more_urgent_task_recalls_the_queue_and_halves_it() -> None:
    """It falls to two tickets per worker. A task of the same rank recalls nothing."""
    hopper = Hopper([False], 0.0)
    depths = []
    for _ in range(5):
        hopper.note_taken([3, 7, 5])
        assert not count(hopper, 40, ranks=(7,))
        assert count(hopper, 40, ranks=(9, 6))
        depths += hopper.shares(0, 0)
    assert depths == [32, 16, 8, 8, 8]
    assert not count(hopper, 40, ranks=(0,)), "the queue was recalled, so nothing in it is less urgent"


def test_an_empty_queue_is_not_recalled() -> None:
    """The depth grows, although a more urgent task arrives."""
    hopper = Hopper([False], 0.0)
    hopper.note_taken([7])
    assert not count(hopper, 0, ranks=(1,), paused=True)
    assert hopper.shares(0, 0) == [128]


def test_a_pause_recalls_the_queue() -> None:
    """This holds for any urgency."""
    assert count(Hopper([False], 0.0), 1, paused=True)


def test_a_spooler_that_withholds_gives_what_begins_soon() -> None:
    """There is a ticket for each idle worker, and as many as have recently ended within a moment. Another spooler is
    not limited.
    """
    hopper = Hopper([True, False], 100.0)
    assert hopper.shares(0, 3) == [3, 32]
    assert hopper.shares(2, 3) == [1, 31]
    assert hopper.shares(5, 3)[0] <= 0
    hopper.note_done(10, 100.01)  # too short a time to tell a rate
    assert hopper.shares(0, 3) == [3, 32]
    hopper.note_done(200, 100.5)  # 400 a second, half of which counts: 10 in a moment
    assert hopper.shares(0, 3) == [13, 32]


def test_tickets_that_no_worker_begins_are_recalled_for_others() -> None:
    """They are recalled after a second without a change, and only if other supervisors could run them."""
    hopper, own = Hopper([False, True], 0.0), Hopper([False], 0.0)
    assert hopper.wait(0) is None
    assert [count(one, 5, 10.0) for one in (hopper, own)] == [False, False]
    assert (hopper.wait(5), own.wait(5)) == (1.0, None)
    assert not count(hopper, 4, 10.9)
    assert not count(hopper, 4, 11.8)
    assert [count(one, 4, 12.0) for one in (hopper, own)] == [True, False]
    assert not count(hopper, 4, 12.9), "what is taken again may wait for as long again"
    assert count(hopper, 4, 13.9)


def test_enough_to_do_for_a_nap() -> None:
    """The number is smaller if tickets are withheld, by the number of workers and their rate."""
    assert Hopper([False], 0.0).enough(4) == 64
    hopper = Hopper([True], 0.0)
    assert hopper.enough(4) == 8
    hopper.note_done(2_000, 1.0)
    assert hopper.enough(4) == 8 + 16
    assert hopper.enough(60) == 64


def test_a_long_run_holds_up_what_its_worker_has_claimed() -> None:
    """An idle worker delays nothing."""
    assert is_slow([0.0, 99.9], 100.0)
    assert not is_slow([0.0, 99.96], 100.0)
    assert not is_slow([], 100.0)
