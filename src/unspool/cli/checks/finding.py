"""One line of the output of ``unspool doctor``."""

from dataclasses import dataclass

__all__ = ["FAIL", "OK", "WARN", "Finding"]

OK, WARN, FAIL = "ok", "warn", "fail"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the output of ``unspool doctor``.

    :param subject: what was checked.
    :param level: ``ok``, ``warn`` or ``fail``.
    :param text: the result of the check.
    :param advice: what to do about it.
    :param traceback: the traceback of an error, as text.
    """

    subject: str
    level: str
    text: str
    advice: str = ""
    traceback: str = ""
