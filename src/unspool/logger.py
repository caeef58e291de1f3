"""The logger ``unspool``, which a program's logging configuration does not disable by accident."""

import logging
from typing import Any

__all__ = ["keep_enabled"]


class _Enabled:
    """Keeps the logger enabled.

    ``dictConfig`` and ``fileConfig`` disable every logger that they do not name, by default. The failures of tasks
    would then not be logged. To silence the logger, set its level.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        if name != "disabled" or not value:  # not a property, which each log line would read three times
            super().__setattr__(name, value)


def keep_enabled() -> None:
    """Keep the logger enabled."""
    logger = logging.getLogger("unspool")
    if not isinstance(logger, _Enabled):
        logger.disabled = False
        logger.__class__ = type("Logger", (_Enabled, type(logger)), {})
