"""The parts of a spool directory."""

from pathlib import Path

from unspool.backends.base import UNNUMBERED
from unspool.backends.spool.layout import is_priority, priority_of, rank_of, spooler_of


def test_priorities_and_ranks() -> None:
    """A directory named by up to nine digits is a priority. A task without one comes after all numbers."""
    assert [bool(is_priority(name)) for name in ("0", "007", "999999999", "1000000000", "", "-1", "a", "1 ", "٣")] == [
        True,
        True,
        True,
        *[False] * 6,
    ]
    assert (priority_of("5/name"), priority_of("name")) == (5, None)
    assert rank_of(999_999_999) < rank_of(None) == UNNUMBERED
    assert rank_of(0) == 0


def test_the_spooler_of_a_path(tmp_path: Path) -> None:
    """The path alone determines it: of a task, of one with a priority, of one set aside, and in a spooler named by a
    number.
    """
    for path in ("name", "5/name", ".unspool/dead/name", ".unspool/corrupt/5/name"):
        assert spooler_of(f"/srv/mail/{path}") == "/srv/mail"
    (tmp_path / "5" / ".unspool").mkdir(parents=True)
    assert spooler_of(f"{tmp_path}/5/name") == f"{tmp_path}/5"
