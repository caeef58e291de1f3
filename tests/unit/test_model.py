"""The model of throughput agrees with known results about queueing networks."""

from itertools import pairwise

import pytest
from benchmarks.model import Demands, Machines, bounds, throughput

DEMANDS = Demands(worker=200e-6, supervisor=50e-6, server=100e-6, trips=1)


def machines(hosts: int, workers: int, **more: float) -> Machines:
    return Machines(hosts, workers, 8, 4, **more)  # type: ignore[arg-type]


def test_one_worker_waits_for_nobody() -> None:
    """A single worker takes the sum of all stations, without the supervisor's time."""
    rate = throughput(DEMANDS, machines(1, 1, round_trip=0.001, task=0.01))
    assert rate == pytest.approx(1 / (200e-6 + 100e-6 + 0.001 + 0.01))


def test_two_workers_at_one_processor() -> None:
    """Two customers and two equal stations give two thirds of what one station can do, the textbook's value."""
    alike = Demands(worker=100e-6, supervisor=0.0, server=100e-6, trips=0)
    assert throughput(alike, Machines(1, 2, 1, 1)) == pytest.approx(10_000 * 2 / 3)


def test_more_workers_never_make_less_nor_more_than_the_bound() -> None:
    """Throughput grows with the workers, up to the smallest limit."""
    rates = [throughput(DEMANDS, machines(hosts, 8)) for hosts in range(1, 30)]
    assert all(more > fewer * (1 - 1e-9) for fewer, more in pairwise(rates))
    least = min(bounds(DEMANDS, machines(29, 8)).values())
    assert least == pytest.approx(4 / 100e-6)  # the server's processors
    assert 0.99 * least < rates[-1] <= least


def test_parts_that_share_a_machine_share_its_processors() -> None:
    """If the server is on the workers' machine, its time and the supervisor's use the same processors."""
    here = Machines(1, 100, 2, 0)
    assert throughput(DEMANDS, here) == pytest.approx(2 / 350e-6, rel=0.01)
    assert bounds(DEMANDS, here)["processors"] == pytest.approx(2 / 350e-6)
