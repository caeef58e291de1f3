"""One line of the doctor's."""

from dataclasses import dataclass

__all__ = ["FAIL", "OK", "WARN", "Finding"]

OK, WARN, FAIL = "ok", "warn", "fail"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the doctor's.

    :param subject: what was looked at.
    :param level: ``ok``, ``warn`` or ``fail``.
    :param text: what was found.
    :param advice: what to do about it.
    :param traceback: of an error, as text.
    """

    subject: str
    level: str
    text: str
    advice: str = ""
    traceback: str = ""
