"""The output of commands: aligned and coloured on a terminal, tab-separated lines without headings when piped, or JSON.

Names, messages and reasons come from files that any user may have written, so control characters are escaped.
"""

import codecs
import contextlib
import json
import re
import shutil
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, TextIO

import click

from ..printable import printable

if TYPE_CHECKING:
    from .columns import Column

__all__ = ["MOST", "accept_any_text", "aligned", "clean", "error", "finding", "heading", "is_terminal", "json_option",
           "line", "lines", "note", "tabbed", "write_json", "write_json_array"]  # fmt: skip

MOST = 2**31 - 1
"""The maximum value of an option that limits the output."""

json_option = click.option("--json", is_flag=True, show_envvar=True, help="Print JSON.")

_STYLES = {
    "ready": "green",
    "running": "cyan",
    "deferred": "yellow",
    "dead": "red",
    "corrupt": "red",
    "processed": "green",
    "skipped": "dim",
    "rescheduled": "yellow",
    "timeout": "yellow",
    "crashed": "red",
    "ok": "green",
    "warn": "yellow",
    "fail": "red",
}


_not_text = re.compile("([\udc80-\udcff]+)")  # the bytes of file names, as ``os.fsdecode`` returns them


def accept_any_text() -> None:
    """Let stdout encode any text, so that no character or file name ends a command with ``UnicodeEncodeError``.

    A pipe gets the bytes of a file name that is not text, so that the name can be passed to a command. Other characters
    that the encoding lacks are escaped.
    """
    encoding = getattr(sys.stdout, "encoding", None) or "ascii"
    piped = not is_terminal() and "a".encode(encoding) == b"a"
    with contextlib.suppress(AttributeError):  # sys.stdout was replaced by another object
        sys.stdout.reconfigure(errors="unspool" if piped else "backslashreplace")  # type: ignore[union-attr]


def _encode(error: UnicodeError) -> tuple[str | bytes, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    start = error.start
    if _not_text.match(error.object[start]):
        return error.object[start].encode("ascii", "surrogateescape"), start + 1
    return codecs.backslashreplace_errors(UnicodeEncodeError(error.encoding, error.object, start, start + 1, ""))


codecs.register_error("unspool", _encode)


def clean(text: str) -> str:
    """Return the text as ``printable`` does. In a pipe, the bytes of a file name that is not text are kept."""
    if text.isprintable() or is_terminal():
        return printable(text)
    return "".join(part if at % 2 else printable(part) for at, part in enumerate(_not_text.split(text)))


def is_terminal(stream: TextIO | None = None) -> bool:
    """Return whether the output goes to a terminal."""
    return (stream or sys.stdout).isatty()


def line(text: str = "", style: str = "") -> None:
    """Write one line of output."""
    if style and is_terminal():
        _print([(text, style)])
    else:
        sys.stdout.write(f"{text}\n")


def note(text: str) -> None:
    """Write a remark for the user to stderr."""
    sys.stderr.write(f"unspool: {printable(text)}\n")


def lines(text: str) -> None:
    """Write several lines, such as a traceback, to stderr."""
    sys.stderr.write("".join(f"{printable(one)}\n" for one in text.split("\n")))


def error(problem: object) -> None:
    """Write an error to stderr, in one line."""
    with contextlib.suppress(OSError):
        sys.stderr.write(f"unspool: error: {printable(' '.join(str(problem).split()))}\n")


def tabbed(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Write rows for a pipe, separated by tabs. Each row is written at once, so that memory does not grow.

    :param headings: empty if the output has no headings.
    """
    if headings:
        sys.stdout.write("\t".join(headings) + "\n")
    for row in rows:
        sys.stdout.write("\t".join(map(clean, row)) + "\n")


def aligned(columns: Sequence["Column"], rows: Iterable[Sequence[str]]) -> int:
    """Write rows for a terminal, aligned under headings and cut to its width. Return their number."""
    from rich.cells import cell_len

    from .columns import GAP, cut, fit

    cells = [[_as_written(clean(cell)) for cell in row] for row in rows]
    found = fit(columns, cells, _width())

    def padded(at: int, text: str, style: str) -> tuple[str, str]:
        column, width = found.columns[at], found.widths[at]
        shown = cut(text, width, _ellipsis(), keeps_end=column.keeps_end)
        return shown + " " * (width - cell_len(shown) + GAP), style

    if cells:
        _print([padded(at, column.heading, "bold") for at, column in enumerate(found.columns)])
    for row in cells:
        texts = [row[place] for place in found.places]
        _print([padded(at, text, _STYLES.get(text, "")) for at, text in enumerate(texts)])
    return len(cells)


def heading(text: str) -> None:
    """Write a line above a table on a terminal, shortened at its start to the width."""
    from .columns import cut

    line(cut(_as_written(clean(text)), _width(), _ellipsis(), keeps_end=True), "bold")


def finding(level: str, subject: str, text: str, advice: str) -> None:
    """Write one finding: its level and text, and what to do about it on a separate line."""
    content = f"{clean(subject)}: {clean(text)}"
    if is_terminal():
        _print([(f"{level:<5}", _STYLES[level]), (content, "")])
    else:
        sys.stdout.write(f"{level:<5}{content}\n")
    if advice:
        sys.stdout.write(f"     -> {clean(advice)}\n")


def write_json(value: Any) -> None:
    """Write one value, indented on a terminal."""
    json.dump(value, sys.stdout, indent=2 if is_terminal() else None)
    sys.stdout.write("\n")


def write_json_array(items: Iterable[Any]) -> None:
    """Write an array, one item per line, as the items arrive."""
    separator = "["
    try:
        for item in items:
            sys.stdout.write(separator + json.dumps(item))
            separator = ",\n "
    finally:  # also after an error, because the items until then were processed
        sys.stdout.write("]\n" if separator != "[" else "[]\n")


def _as_written(text: str) -> str:
    """Return the text with the escapes that the terminal's encoding needs, so that its width is right."""
    encoding = getattr(sys.stdout, "encoding", None) or "ascii"
    return text if text.isascii() else text.encode(encoding, "backslashreplace").decode(encoding)


def _ellipsis() -> str:
    return "…" if _as_written("…") == "…" else "~"


def _width() -> int:
    return shutil.get_terminal_size().columns


def _print(parts: Sequence[tuple[str, str]]) -> None:
    from rich.console import Console
    from rich.text import Text

    global _console  # noqa: PLW0603  created once, and only on a terminal
    if _console is None:
        _console = Console(file=sys.stdout, highlight=False, markup=False, emoji=False)
    text = Text()
    for content, style in parts:
        text.append(content, style)
    text.rstrip()
    _console.print(text, soft_wrap=True)


_console: Any = None
