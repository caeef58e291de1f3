"""Postponing and priorities, as callers say them."""

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
    """The process's local time is New York's."""
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "EST5EDT,M3.2.0,M11.1.0")
        time.tzset()
        yield
    time.tzset()


def test_nothing_said_is_at_once() -> None:
    """None postpones nothing."""
    assert to_due(None, NOW) is None


def test_a_timedelta_counts_from_now() -> None:
    """To the microsecond."""
    assert to_due(timedelta(seconds=90, microseconds=5), NOW) == pytest.approx(NOW + 90.000005, abs=1e-6)


@pytest.mark.usefixtures("new_york")
def test_an_aware_datetime_is_as_it_says() -> None:
    """Whatever the local time is."""
    in_utc = datetime(2030, 6, 1, 13, tzinfo=UTC)
    in_tokyo = in_utc.astimezone(timezone(timedelta(hours=9)))
    assert to_due(in_utc, NOW) == to_due(in_tokyo, NOW) == NOW + 3600


@pytest.mark.usefixtures("new_york")
def test_a_naive_datetime_is_local_time() -> None:
    """In summer time here, so four hours behind UTC."""
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
    """What is due already is not postponed."""
    assert to_due(past, NOW) is None


@pytest.mark.parametrize("future", [timedelta.max, timedelta(days=365 * 400), datetime.max, datetime(2400, 1, 2)])
def test_too_far_ahead_is_refused(future: timedelta | datetime) -> None:
    """A file's time cannot say it, and it must not wrap round to the past."""
    with pytest.raises(OptionRefused, match="postpone is"):
        to_due(future, NOW)


def test_the_far_future_that_a_file_can_say() -> None:
    """The last year that is taken."""
    assert to_due(datetime(2399, 12, 31, tzinfo=UTC), NOW) == datetime(2399, 12, 31, tzinfo=UTC).timestamp()


@pytest.mark.parametrize("other", [5, 5.0, "5m", date(2031, 1, 1), True, object])
def test_anything_else_is_refused(other: object) -> None:
    """The error says what it was and what it may be."""
    with pytest.raises(OptionRefused, match="must be a timedelta, a datetime or None"):
        to_due(other, NOW)


def test_now_is_the_clocks() -> None:
    """Without a given time, that of the system."""
    before = time.time()
    due = to_due(timedelta(hours=1))
    assert due is not None
    assert before + 3600 <= due <= time.time() + 3600


@pytest.mark.parametrize("priority", [None, 0, 1, 999_999_999])
def test_a_priority(priority: int | None) -> None:
    """Whole numbers that a directory's name can carry, and none."""
    check_priority(priority)


@pytest.mark.parametrize("priority", [-1, 10**9, 1.0, "1", True, math.nan, b"1"])
def test_what_is_no_priority_is_refused(priority: object) -> None:
    """The error says what it was."""
    with pytest.raises(OptionRefused, match="priority is"):
        check_priority(priority)
