"""Makes unspool the handler that uWSGI's spooler processes call."""

import sys
from typing import TYPE_CHECKING

from . import registry, settings
from .errors import UnspoolError
from .imports import late

if TYPE_CHECKING:
    from .backends.spool.uwsgi.backend import UwsgiBackend
    from .runtime.inside import SpoolerHandler

__all__ = ["enter"]

_handler: "SpoolerHandler | None" = None
_insides: "tuple[settings.Settings, list[UwsgiBackend]] | None" = None  # with the settings for which they were opened


def enter() -> None:
    """Inside uWSGI, make its spoolers call unspool's handler; elsewhere, do nothing. It may be called repeatedly.

    A handler that the program has set gets the messages that are not unspool's.
    """
    global _handler  # noqa: PLW0603  the process has one handler
    uwsgi = sys.modules.get("uwsgi")
    if uwsgi is None or (_handler is not None and getattr(uwsgi, "spooler", None) is _handler):
        return
    with late:
        from .backends.spool.uwsgi.server import install, module

    if module() is None:
        return
    if _handler is None:
        with late:
            from .runtime.inside import SpoolerHandler

        _handler = SpoolerHandler(_spoolers, registry.seal)
    install(_handler, _handler.keep)
    try:
        for inside in _spoolers():
            inside.enter()
    except (UnspoolError, OSError) as error:  # an import must not fail; sending will raise the error again
        _handler.log_once(str(error))


def _spoolers() -> list["UwsgiBackend"]:
    """Return the backends of uWSGI's own spoolers. The handler asks for them at each call."""
    global _insides  # noqa: PLW0603  the process is in one uWSGI
    chosen = settings.current()
    if _insides is None or _insides[0] is not chosen:
        with late:
            from .backends.spool.uwsgi.backend import UwsgiBackend
            from .backends.spool.uwsgi.server import spoolers

        found = [registry.backend(name) for name in spoolers()]
        _insides = chosen, [one for one in found if isinstance(one, UwsgiBackend)]
    return _insides[1]
