"""Arrays as the server reads them: text, which costs this process less than psycopg's conversions."""

from collections.abc import Iterable

__all__ = ["array", "texts"]


def array(items: Iterable[object]) -> bytes:
    """Return an array of numbers; None means null."""
    return f"{{{','.join(['NULL' if item is None else repr(item) for item in items])}}}".encode()


def texts(items: Iterable[str | None]) -> bytes:
    """Return an array of texts; None means null. The texts contain no NUL."""
    return f"{{{','.join(['NULL' if item is None else _quoted(item) for item in items])}}}".encode()


def _quoted(text: str) -> str:
    if '"' in text or "\\" in text:
        text = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{text}"'
