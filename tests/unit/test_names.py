"""The names of tasks."""

import itertools
import os
import re
import threading

from hypothesis import given
from hypothesis import strategies as st

from unspool.backends.spool.names import PREFIX, Names, hint, renamed

NOW = 1_900_000_000.25


def test_a_name_is_uwsgis() -> None:
    """A name consists of prefix, host, process, counter, random number, seconds and microseconds."""
    name = Names().next(NOW, None)
    assert re.fullmatch(rf"{PREFIX}[^/]+_{os.getpid()}_1_[0-9]+_1900000000_250000", name)
    assert Names().next(NOW, NOW + 3600.5).endswith("_1900003600_750000")


def test_names_are_unique_across_threads() -> None:
    """Eight threads make names at the same clock time, some with a due time."""
    names, found = Names(), [list[str]() for _ in range(8)]
    start = threading.Barrier(8)

    def make(mine: list[str]) -> None:
        start.wait()
        mine.extend(names.next(NOW, NOW if number % 2 else None) for number in range(2_000))

    threads = [threading.Thread(target=make, args=[mine]) for mine in found]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({name for mine in found for name in mine}) == 16_000
    for mine in found:
        undated = mine[::2]
        assert undated == sorted(undated, key=hint), "each thread's own keep their order"


def test_names_are_unique_across_forks() -> None:
    """Children that inherit the object make other names than it and each other, also if its lock was held.

    Only a thread that makes a name at the moment of the fork holds the lock, so the test takes it directly.
    """
    names = Names()
    names.next(NOW, None)
    found = []
    for _ in range(3):
        reader, writer = os.pipe()
        with names._lock:  # noqa: SLF001  see above
            pid = os.fork()
            if pid == 0:
                status = 1
                try:
                    os.write(writer, "\n".join(names.next(NOW, None) for _ in range(20)).encode())
                    status = 0
                finally:
                    os._exit(status)
        os.close(writer)
        with open(reader, "rb") as pipe:
            found += pipe.read().decode().split("\n")
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    found += [names.next(NOW, None) for _ in range(20)]
    assert len(set(found)) == 80


@given(st.lists(st.floats(0, 0.99), max_size=100))
def test_times_rise_within_a_process(steps: list[float]) -> None:
    """Whatever the clock does within a second, also if it stands still or goes back, the time of each name is later
    than the one before: first in, first out.
    """
    names = Names()
    times = [hint(names.next(NOW + step, None)) for step in steps]
    assert all(before < after for before, after in itertools.pairwise(times))


def test_a_clock_that_is_set_far_back_delays_nothing() -> None:
    """The time of a name is never more than a second ahead of the clock, because tasks would wait for the clock."""
    names = Names()
    names.next(NOW, None)
    for later in (0.0, 0.1, 0.2):
        assert NOW - 86_400 + later <= hint(names.next(NOW - 86_400 + later, None)) <= NOW - 86_400 + later + 1


def test_the_hint_of_a_name() -> None:
    """It is the time at the end; 0, which is always due, if the name of another program has none."""
    assert hint(f"{PREFIX}host_1_2_3_1900000000_250000") == NOW
    for name in (PREFIX, "x", "", "a_b_c", "a_1_x", "a__"):
        assert hint(name) == 0.0


def test_a_name_with_another_time() -> None:
    """The rest of the name stays, so it is unique, also in a priority."""
    assert renamed(f"5/{PREFIX}h_1_2_3_1700000000_000001", NOW) == f"5/{PREFIX}h_1_2_3_1900000000_250000"
    assert renamed(f"5/{PREFIX}a", NOW) == f"5/{PREFIX}a_1900000000_250000", "it has no time, and stays a task's name"
