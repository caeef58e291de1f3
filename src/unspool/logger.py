"""The logger ``unspool``, which a program's logging configuration does not disable by accident."""

import logging

__all__ = ["keep_enabled"]


class _Enabled:
    """Keeps the logger enabled.

    ``dictConfig`` and ``fileConfig`` disable every logger that they do not name, by default. The failures of tasks
    would then not be logged. To silence the logger, set its level.
    """

    @property
    def disabled(self) -> bool:
        return False

    @disabled.setter
    def disabled(self, value: bool) -> None:
        pass


def keep_enabled() -> None:
    """Keep the logger enabled."""
    logger = logging.getLogger("unspool")
    if not isinstance(logger, _Enabled):
        logger.__class__ = type("Logger", (_Enabled, type(logger)), {})
