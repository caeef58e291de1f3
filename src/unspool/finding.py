"""What a check of the installation or of a queue has found."""

from dataclasses import dataclass

__all__ = ["FAIL", "OK", "WARN", "Finding"]

OK, WARN, FAIL = "ok", "warn", "fail"


@dataclass(frozen=True, slots=True)
class Finding:
    """One result of a check.

    :param subject: what was checked.
    :param level: ``ok``, ``warn`` or ``fail``.
    :param text: the result of the check.
    :param advice: what to do about it.
    :param traceback: the traceback of an error, as text.
    :param missing: whether the subject is a queue that does not exist yet.
    """

    subject: str
    level: str
    text: str
    advice: str = ""
    traceback: str = ""
    missing: bool = False
