"""Tables that fit a width."""

import random

from rich.cells import cell_len

from unspool.cli.columns import GAP, Column, cut, fit


def test_a_table_that_fits_is_left_alone() -> None:
    """Each column is as wide as its widest cell or heading, also empty ones."""
    found = fit([Column("A"), Column("EMPTY", spare=1), Column("C", 1)], [("a" * 9, "", "c")], 100)
    assert (found.places, found.widths) == ([0, 1, 2], [9, 5, 1])


def test_what_is_given_up_first() -> None:
    """First empty columns are omitted, then the widest cells are cut, then spare columns are omitted, the largest
    number first. Cells that cannot be cut stay.
    """
    columns = [Column("ID"), Column("E"), Column("S1", spare=1), Column("S2", spare=2), Column("TEXT", 5)]
    row = ["i" * 20, "", "s" * 10, "t" * 10, "x" * 50]
    found = [fit(columns, [row], width) for width in (70, 51, 50, 38, 26, 9)]
    assert [(one.places, one.widths) for one in found] == [
        ([0, 2, 3, 4], [20, 10, 10, 24]),
        ([0, 2, 3, 4], [20, 10, 10, 5]),
        ([0, 2, 4], [20, 10, 16]),
        ([0, 4], [20, 16]),
        ([0, 4], [20, 5]),
        ([0, 4], [20, 5]),
    ]


def test_random_tables() -> None:
    """For any cells, the table fits unless its minimum is too wide, and a cut cell has its width."""
    seed = random.randrange(1 << 32)
    print("seed", seed)
    chance = random.Random(seed)
    for _ in range(300):
        columns = [
            Column("H" * chance.randint(1, 9), chance.choice([0, 0, 5, 12]), spare=chance.choice([0, 0, 1, 2]))
            for _ in range(chance.randint(1, 8))
        ]
        rows = [
            [chance.choice(["x", "\u6f22", "e\u0301"]) * chance.choice([0, 1, 5, 40]) for _ in columns]
            for _ in range(chance.randint(1, 4))
        ]
        width = chance.randint(1, 120)
        found = fit(columns, rows, width)
        if sum(found.widths) + GAP * (len(found.widths) - 1) > width:
            assert not any(column.spare for column in found.columns)
            assert all(
                width <= (column.least or width) for column, width in zip(found.columns, found.widths, strict=True)
            )
        for place, room in zip(found.places, found.widths, strict=True):
            for row in rows:
                assert cell_len(cut(row[place], room)) <= room
                assert cell_len(cut(row[place], room, keeps_end=True)) <= room


def test_what_is_cut() -> None:
    """The beginning or the end stays. Wide characters are never halved."""
    assert cut("abcdef", 6) == "abcdef"
    assert cut("abcdef", 5) == "abcd…"
    assert cut("/srv/app/mail", 6, keeps_end=True) == "…/mail"
    assert cut("\u6f22\u6f22\u6f22", 4) == "\u6f22…"
    assert cut("abcdef", 3, "~") == "ab~"
