"""The display of names that anyone may have chosen."""

import logging

import pytest

from unspool import codec
from unspool.message import Record
from unspool.printable import counted, printable
from unspool.runtime.log import log_end


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain text, ünïcode and 日本語", "plain text, ünïcode and 日本語"),
        ("\x1b[31mred\x1b]0;title\x07", "\\x1b[31mred\\x1b]0;title\\x07"),
        ("two\nlines\r\t", "two\\nlines\\r\\t"),
        ("\x9b31m", "\\x9b31m"),
        ("abc\u202edcba", "abc\\u202edcba"),
        ("a\u200bb\u200fc\ufeff\u2066", "a\\u200bb\\u200fc\\ufeff\\u2066"),
        ("\U000e0041", "\\U000e0041"),
        ("no\u2028line", "no\\u2028line"),
        ("file\udcff", "file\\udcff"),
        ("half \ud83d, other half \ude00", "half \\ud83d, other half \\ude00"),
        ("a\0b", "a\\x00b"),
        ("whole \U0001f600", "whole \U0001f600"),
    ],
)
def test_what_is_shown(text: str, shown: str) -> None:
    """Control characters, new lines, direction marks, zero-width characters, NUL and lone surrogates are escaped, and
    nothing else. Escaped text stays the same.
    """
    assert printable(text) == shown
    assert printable(shown) == shown
    assert shown.encode()


def test_every_code_point_can_be_stored_and_stays_in_its_line() -> None:
    """For any text, the result encodes as UTF-8, is one line and has no NUL."""
    shown = printable("".join(map(chr, range(0x110000))))
    assert len(shown.encode().splitlines()) == len(shown.splitlines()) == 1
    assert "\0" not in shown


def test_a_tasks_label_cannot_write_into_a_terminal_or_a_log() -> None:
    """A file may have any name for its task. The label is shown by listings, history and every log."""
    label = codec.task_label({"msg": b"ucfg_x\x1b[2J\n2026-01-01 ERROR faked line\xff"})
    assert label == "x\\x1b[2J\\n2026-01-01 ERROR faked line\N{REPLACEMENT CHARACTER}"


def test_a_log_line_is_one_line(caplog: pytest.LogCaptureFixture) -> None:
    """Neither the error of a task nor the name of a file can add lines or escapes, also in uWSGI's log."""
    record = Record("/mail/uwsgi_\x1b[1m\nx", "app:f", "dead", 3, 0.0, 0.0, 1, "ValueError: \x1b]0;owned\x07")
    with caplog.at_level(logging.ERROR, "unspool"):
        log_end("/mail", record, None)
    (line,) = caplog.messages
    assert printable(line) == line
    assert "ValueError: \\x1b]0;owned\\x07" in line


def test_counted() -> None:
    """Only one is singular."""
    assert [counted(number, "task") for number in (0, 1, 2)] == ["0 tasks", "1 task", "2 tasks"]
