"""Tables that fit the width of a terminal: one line for each row, with shortened cells and omitted columns."""

from collections.abc import Sequence
from typing import NamedTuple

from rich.cells import cell_len

__all__ = ["GAP", "Column", "cut", "fit"]

GAP = 2  # characters between two columns


class Column(NamedTuple):
    """A column of a table.

    :param least: the minimum width to which its cells are shortened; 0 if they are never shortened.
    :param keeps_end: whether to keep the end of a shortened cell, as of a path, and not its beginning.
    :param spare: 0 if it is always shown; columns with the largest number are omitted first.
    """

    heading: str
    least: int = 0
    keeps_end: bool = False
    spare: int = 0


class Fitted(NamedTuple):
    """The columns that fit, each with its index in a row and its width."""

    columns: Sequence[Column]
    places: Sequence[int]
    widths: Sequence[int]


def fit(columns: Sequence[Column], rows: Sequence[Sequence[str]], width: int) -> Fitted:
    """Return the columns that fit the width, and the width of each.

    If the table is too wide, empty columns are omitted, then cells are shortened, the widest first, then spare columns
    are omitted. A table whose columns cannot be narrowed further may still be too wide.
    """
    natural = [max(map(cell_len, [column.heading, *(row[at] for row in rows)])) for at, column in enumerate(columns)]
    places = list(range(len(columns)))
    if _total(natural) > width:
        places = [at for at in places if not rows or any(row[at] for row in rows)]
    while True:
        least = [min(natural[at], columns[at].least or natural[at]) for at in places]
        spare = max((at for at in places if columns[at].spare), key=lambda at: columns[at].spare, default=None)
        if _total(least) <= width or spare is None:
            break
        places.remove(spare)
    widths = [natural[at] for at in places]
    while (excess := _total(widths) - width) > 0:
        widest = max((at for at in range(len(places)) if widths[at] > least[at]), key=widths.__getitem__, default=None)
        if widest is None:
            break
        others = [widths[at] for at in range(len(places)) if at != widest and widths[at] > least[at]]
        step = widths[widest] - max([*others, least[widest]])
        widths[widest] -= max(1, min(step, excess))
    return Fitted([columns[at] for at in places], places, widths)


def cut(text: str, width: int, ellipsis: str = "…", *, keeps_end: bool = False) -> str:
    """Return the text, or as much of it as fits the width together with an ellipsis."""
    if cell_len(text) <= width:
        return text
    kept, left = [], width - len(ellipsis)
    for character in reversed(text) if keeps_end else text:
        if (left := left - cell_len(character)) < 0:
            break
        kept.append(character)
    return ellipsis + "".join(reversed(kept)) if keeps_end else "".join(kept) + ellipsis


def _total(widths: Sequence[int]) -> int:
    return sum(widths) + GAP * max(len(widths) - 1, 0)
