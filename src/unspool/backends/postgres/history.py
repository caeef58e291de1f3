"""The runs of a queue: written by the statements that settle them, bounded in number and age."""

from collections.abc import Callable, Sequence

from ...message import Record
from ...printable import printable
from ..page import Page, RunPosition, RunQuery
from .arrays import array, texts
from .connection import Connector
from .names import Names
from .sql import statement

__all__ = ["History", "storable"]

_TRIM_EVERY = 5_000  # rows between two trimmings; a trimming deletes up to twice as many
_LAST = 2**63 - 1
_NO_TEXTS = (None,) * 7
_NOTHING = ("", "", None, 0, 0.0, 0.0, 0, "")  # the fields of a run without a record
_FIELDS = ("tasks", "verdicts", "attempts", "starts", "durations", "pids", "errors")


class History:
    """Implement the history of ``base.Backend``.

    :param limit: the number of rows kept; 0 disables the history.
    :param age: seconds for which rows are kept.
    """

    def __init__(
        self, connector: Connector, names: Names, limit: int, age: float, now: Callable[[], float | None]
    ) -> None:
        self._connector = connector
        self._names = names
        self._limit = limit
        self._age = age
        self._now = now
        self._untrimmed = 0

    def arrays(self, records: Sequence[Record | None]) -> Sequence[bytes | None]:
        """Return the fields of records except the ids, as arrays of text for the server; nulls if there is no
        history."""
        kept = [record for record in records if record is not None] if self._limit else ()
        if not kept:
            return _NO_TEXTS
        fields = [_NOTHING if record is None else record for record in records]
        _, tasks, verdicts, attempts, starts, durations, pids, errors = zip(*fields, strict=True)
        return (
            texts(map(storable, tasks)), texts(verdicts), array(attempts), array(starts), array(durations),
            array(pids), texts(map(storable, errors)),
        )  # fmt: skip

    def add(self, records: Sequence[Record]) -> None:
        """Add rows.

        :raises SpoolerUnusable: if the server cannot store them.
        """
        if not self._limit or not records:
            return
        kept = [record._replace(task=storable(record.task), error=storable(record.error)) for record in records]
        ids, *fields = map(list, zip(*kept, strict=True))
        values = {"spooler": self._names.spooler, "ids": list(map(self._inner, ids))}
        values |= dict(zip(_FIELDS, fields, strict=True))
        with self._connector.lend() as connection:
            connection.execute(statement("record"), values, binary=True)
        self.ended(len(records))
        self.trim()

    def ended(self, runs: int) -> None:
        """Note that rows were added."""
        self._untrimmed += runs

    def trim(self) -> None:
        """Delete the runs that exceed the limits, if it is time to trim.

        :raises SpoolerUnusable: if the server cannot delete them.
        """
        if self._untrimmed < _TRIM_EVERY:
            return
        self._untrimmed = 0
        values = {"spooler": self._names.spooler, "limit": self._limit, "age": self._age, "clock": self._now()}
        with self._connector.lend() as connection:
            connection.execute(statement("trim"), values, binary=True)

    def page(self, query: RunQuery, after: str, limit: int) -> Page:
        """Return runs, as ``base.Backend.page``."""
        start = RunPosition.load(after)
        if query.piece:  # a part of a number is another task's number
            return Page()
        values = query._asdict() | {"spooler": self._names.spooler, "limit": limit}
        values |= {"id": self._inner(query.id) if query.id else None, "number": start.number if start else _LAST}
        with self._connector.lend() as connection:
            rows = connection.execute(statement("runs"), values, prepare=False, binary=True).fetchall()
        found = [Record(self._outer(id), *fields) for _, id, *fields in rows]
        # Another process writes crashes, perhaps a moment later than the other runs.
        newest = sorted(found, key=lambda record: record.started + record.duration, reverse=True)
        return Page(runs=tuple(newest), after=RunPosition(0.0, rows[-1][0]).dump() if len(rows) == limit else "")

    def _inner(self, id: str) -> str:
        number = self._names.number(id)
        return printable(id) if number is None else str(number)

    def _outer(self, id: str) -> str:
        return self._names.id(id) if id.isdigit() else id


def storable(text: str) -> str:
    """Return the text in a form that a column can store: NUL and lone surrogates are escaped."""
    if "\0" not in text and (text.isascii() or _is_unicode(text)):
        return text
    return "\n".join(map(printable, text.split("\n")))


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
