"""Postponing and priorities, as callers give them."""

import math
import time
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta, timezone

import pytest

from unspool.errors import OptionRefused
from unspool.schedule import check_priority, to_due

NOW = datetime(2030, 6, 1, 12, tzinfo=UTC).timestamp()


@pytest.fixture
def new_york(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Set the local time of the process to New York."""
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "EST5EDT,M3.2.0,M11.1.0")
        time.tzset()
        yield
    time.tzset()


def test_nothing_said_is_at_once() -> None:
    """None postpones nothing."""
    assert to_due(None, NOW) is None


def test_a_timedelta_counts_from_now() -> None:
    """The precision is a microsecond."""
    assert to_due(timedelta(seconds=90, microseconds=5), NOW) == pytest.approx(NOW + 90.000005, abs=1e-6)


@pytest.mark.usefixtures("new_york")
def test_an_aware_datetime_is_as_it_says() -> None:
    """The result does not depend on the local time."""
    in_utc = datetime(2030, 6, 1, 13, tzinfo=UTC)
    in_tokyo = in_utc.astimezone(timezone(timedelta(hours=9)))
    assert to_due(in_utc, NOW) == to_due(in_tokyo, NOW) == NOW + 3600


@pytest.mark.usefixtures("new_york")
def test_a_naive_datetime_is_local_time() -> None:
    """It is summer time here, four hours behind UTC."""
    assert to_due(datetime(2030, 6, 1, 9), NOW) == NOW + 3600


@pytest.mark.parametrize(
    "past",
    [
        timedelta(0),
        timedelta(seconds=-1),
        timedelta.min,
        datetime(1999, 1, 1),
        datetime(1999, 1, 1, tzinfo=UTC),
        datetime.min.replace(tzinfo=UTC),
        datetime.min,
        datetime.fromtimestamp(NOW, UTC),
    ],
)
def test_the_past_is_at_once(past: timedelta | datetime) -> None:
    """A time that has passed postpones nothing."""
    assert to_due(past, NOW) is None


@pytest.mark.parametrize("future", [timedelta.max, timedelta(days=365 * 400), datetime.max, datetime(2400, 1, 2)])
def test_too_far_ahead_is_refused(future: timedelta | datetime) -> None:
    """The time of a file cannot represent it, and it must not wrap round to the past."""
    with pytest.raises(OptionRefused, match="postpone is"):
        to_due(future, NOW)


def test_the_far_future_that_a_file_can_say() -> None:
    """This is the last valid year."""
    assert to_due(datetime(2399, 12, 31, tzinfo=UTC), NOW) == datetime(2399, 12, 31, tzinfo=UTC).timestamp()


@pytest.mark.parametrize("other", [5, 5.0, "5m", date(2031, 1, 1), True, object])
def test_anything_else_is_refused(other: object) -> None:
    """The error says what was given and what is valid."""
    with pytest.raises(OptionRefused, match="must be a timedelta, a datetime or None"):
        to_due(other, NOW)


def test_now_is_the_clocks() -> None:
    """Without a given time, the system's time is used."""
    before = time.time()
    due = to_due(timedelta(hours=1))
    assert due is not None
    assert before + 3600 <= due <= time.time() + 3600


@pytest.mark.parametrize("priority", [None, 0, 1, 999_999_999])
def test_a_priority(priority: int | None) -> None:
    """Valid priorities are whole numbers that the name of a directory can have, and None."""
    check_priority(priority)


@pytest.mark.parametrize("priority", [-1, 10**9, 1.0, "1", True, math.nan, b"1"])
def test_what_is_no_priority_is_refused(priority: object) -> None:
    """The error says what was given."""
    with pytest.raises(OptionRefused, match="priority is"):
        check_priority(priority)
