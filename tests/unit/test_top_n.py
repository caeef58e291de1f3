"""The earliest of very many names, compared with a sorted list."""

from typing import NamedTuple

from hypothesis import given
from hypothesis import strategies as st

from unspool.backends.spool.top_n import Selection, TopN

NOW = 1_800_000_000.0


class Entry(NamedTuple):
    """A directory entry."""

    name: str


def name(number: int, time: float) -> str:
    """Return the name of a task with its time at the end."""
    seconds, rest = divmod(round(time * 1_000_000), 1_000_000)
    return f"uwsgi_spoolfile_on_host_1_{number}_1_{seconds}_{rest:06d}"


times = st.integers(-20, 20).map(lambda step: NOW + step / 4)
names = st.lists(st.tuples(st.integers(0, 9), times).map(lambda made: name(*made)), unique=True, max_size=60)


def order(name: str) -> tuple[float, str]:
    """Return numbers for texts."""
    return float(name[-17:].replace("_", ".")), name


@given(names, st.integers(1, 8), st.integers(1, 7))
def test_the_earliest_are_kept(found: list[str], most: int, step: int) -> None:
    """Whatever the order and steps of the names, and with equal times: the earliest are returned, at most twice as many
    as wanted, and all of them unless some were reported as dropped.
    """
    earliest = TopN(most, order)
    for at in range(0, len(found), step):
        earliest.add(found[at : at + step])
    kept = earliest.items()
    assert kept == sorted(found, key=order)[: len(kept)]
    if earliest.last is not None:
        assert kept[-1] == earliest.last
        assert most <= len(kept) <= 2 * most < len(found)
    else:
        assert len(kept) == len(found)


@given(names, st.integers(1, 8), times, times)
def test_selection(found: list[str], most: int, last: float, last_later: float) -> None:
    """Each kind is kept up to its latest time. Names without a time are left to the caller, and so are due ones if
    files have to be read.
    """
    strange = [
        "5",
        "_",
        "_a",
        "_:",
        "uwsgi_spoolfile_on_x",
        "uwsgi_spoolfile_on__abcdefghijklmnopq",
        f"uwsgi_spoolfile_on_host_1_1_1_{int(NOW)}_37",
        f"uwsgi_spoolfile_on_host_1_17_1_{int(NOW) - 2}_0",
        "~" * 30,
    ]
    for exact in (False, True):
        selection = Selection((min(last, NOW), NOW, last_later), most)
        sifted = selection.sift([Entry(one) for one in [*found, *strange]])
        others = selection.add([entry.name for entry in sifted], exact)
        come = sorted((one for one in found if order(one)[0] <= min(last, NOW)), key=order)
        later = sorted((one for one in found if NOW < order(one)[0] <= last_later), key=order)
        assert sorted(others) == sorted([*strange, *(come if exact else [])])
        for kept, wanted in ((selection.come.items(), [] if exact else come), (selection.later.items(), later)):
            assert kept == wanted[: len(kept)]
            assert len(kept) >= min(most, len(wanted))


def test_a_limit_that_moves() -> None:
    """If files have to be read, the caller sets the latest time."""
    selection = Selection((NOW, NOW, NOW), 5)
    selection.limit(NOW - 10)
    assert selection.sift([Entry(name(1, NOW - 9)), Entry(name(2, NOW - 11))]) == [Entry(name(2, NOW - 11))]
