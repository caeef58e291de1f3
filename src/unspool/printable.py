"""Text that shows as what it is, wherever it is shown.

Names, messages and reasons come from files that anybody may have written. A terminal obeys control characters, a log is
read by its lines, and marks of direction or of no width make one name look like another.
"""

import re

__all__ = ["printable"]

# Controls, and what Unicode calls format characters and separators of lines. File names that are no text are left as
# they are, for a pipe to get their very bytes.
_hidden = re.compile(
    "[\x00-\x1f\x7f-\x9f\xad\u0600-\u0605\u061c\u06dd\u070f\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\U000e0000-\U000e007f]"
)


def printable(text: str) -> str:
    """The text in one line, what would not be seen shown as escapes."""
    if text.isprintable():
        return text
    return _hidden.sub(lambda found: found[0].encode("unicode_escape").decode(), text)
