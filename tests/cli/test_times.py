"""Times and durations as people write and read them."""

import click
import pytest

from unspool.cli import durations


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("5m", 300), ("1h30m", 5400), ("1.5d", 129600), ("20", 20), (" 1H 5S ", 3605), ("0s", 0)],
)
def test_durations(text: str, seconds: float) -> None:
    """Units may be combined, in capitals and with spaces. A bare number is seconds."""
    assert durations.to_timedelta(text).total_seconds() == seconds


@pytest.mark.parametrize("text", ["", "m", "5x", "-5m", "5m!", "1,5h", "1h30", "٣m", "9" * 400, "1e3s"])
def test_what_is_no_duration(text: str) -> None:
    """Anything else is refused, and so is a duration that no time can represent."""
    with pytest.raises(click.BadParameter):
        durations.to_timedelta(text)


@pytest.mark.parametrize(
    ("seconds", "wanted"),
    [(0.2, "now"), (-0.2, "now"), (59, "in 59s"), (-61, "1m1s ago"), (3600, "in 1h"), (90061, "in 1d1h"),
     (-86700, "1d ago")],
)  # fmt: skip
def test_relative(seconds: float, wanted: str) -> None:
    """The two largest units, without zeros."""
    assert durations.relative(1000.0 + seconds, 1000.0) == wanted


def test_moments_that_no_calendar_has() -> None:
    """A file can have any time, and listing it must not fail."""
    assert durations.moment(1e15) == "1000000000000000 s since 1970"


@pytest.mark.parametrize(
    ("seconds", "wanted"), [(0.0004, "0.4 ms"), (0.9999, "999.9 ms"), (12.34, "12.3 s"), (250, "4m10s")]
)
def test_spans(seconds: float, wanted: str) -> None:
    """The precision fits the duration."""
    assert durations.span(seconds) == wanted
