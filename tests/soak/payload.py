"""The key of a task, read from its payload, wherever the task is."""

import contextlib
import re
from pathlib import Path

from unspool import config

__all__ = ["KEY", "key_of"]

KEY = re.compile(rb"k([0-9]+):([a-z]+)")
"""What a key looks like, pickled or not: the number and the kind of its task."""


def key_of(id: str) -> str:
    """Returns the key of the task of this id; an empty string if there is none, or the spooler is away."""
    with contextlib.suppress(OSError):
        if id.startswith("/"):
            path = Path(id)
            data = b"" if path.is_symlink() or not path.is_file() else _head(path)
        else:
            read = next((found for one in config.candidates(id) if (found := one.read(id))), None)
            data = b"" if read is None or read[1] is None else read[1].body
        if key := KEY.search(data):
            return key[0].decode()
    return ""


def _head(path: Path) -> bytes:
    with open(path, "rb") as file:
        return file.read(1 << 20)
