"""The logger ``unspool``, which a program's configuration of logging does not turn off by accident."""

import logging

__all__ = ["keep_enabled"]


class _Enabled:
    """``dictConfig`` and ``fileConfig`` disable every logger that they do not name, unless told not to. The failures of
    tasks would then be logged nowhere. To silence the logger, set its level."""

    @property
    def disabled(self) -> bool:
        return False

    @disabled.setter
    def disabled(self, value: bool) -> None:
        pass


def keep_enabled() -> None:
    """Make the logger one that stays enabled."""
    logger = logging.getLogger("unspool")
    if not isinstance(logger, _Enabled):
        logger.__class__ = type("Logger", (_Enabled, type(logger)), {})
