"""Make text from any source printable and storable.

Names, messages and reasons come from files and tasks of any origin. Control characters change what a terminal does,
line breaks forge log lines, and direction marks and zero-width characters make one name look like another. A database
cannot store NUL, and nothing can write a lone surrogate as UTF-8.
"""

import re

__all__ = ["counted", "printable"]

# Control characters, Unicode's format characters and line separators, and surrogates, which a string has only alone.
_HIDDEN = (  # compiled when it is first needed, because most text is printable
    "[\x00-\x1f\x7f-\x9f\xad\u0600-\u0605\u061c\u06dd\u070f\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ud800-\udfff"
    "\ufeff\ufff9-\ufffb\U000e0000-\U000e007f]"
)


def counted(number: int, noun: str) -> str:
    """Return a number with its noun: ``1 task``, ``2 tasks``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def printable(text: str) -> str:
    """Return the text in one line, with escapes such as ``\\n`` in place of characters that cannot be seen or stored.

    The result has no control character, NUL or lone surrogate, and encodes as UTF-8. Printable text is returned
    unchanged, so the function can be applied twice.
    """
    if text.isprintable():
        return text
    return re.sub(_HIDDEN, lambda found: found[0].encode("unicode_escape").decode(), text)
