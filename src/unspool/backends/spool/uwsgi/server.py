"""The ``uwsgi`` module, which exists only in uWSGI's processes. No other module looks for it."""

import os
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

__all__ = ["frequency", "install", "module", "spoolers", "text"]

Handler = Callable[[dict[Any, Any]], Any]
_FREQUENCY = 30.0  # seconds, the default of uWSGI


def module() -> ModuleType | None:
    """Return the module that uWSGI provides, or None. A package named ``uwsgi`` on the path is ignored; it has no
    options."""
    found = sys.modules.get("uwsgi")
    return found if hasattr(found, "opt") else None


def frequency() -> float | None:
    """Return the configured seconds between two scans by uWSGI's spoolers, or None outside uWSGI."""
    found = module()
    if found is None:
        return None
    options = {text(key): value for key, value in found.opt.items()}
    try:
        return float(text(options["spooler-frequency"]))
    except (KeyError, ValueError):
        return _FREQUENCY


def spoolers() -> list[str]:
    """Return the real paths of uWSGI's spool directories, in its order. The list is empty outside uWSGI."""
    return list(dict.fromkeys(text(path) for path in getattr(module(), "spoolers", ())))


def install(handler: Handler, keep: Callable[[Handler], None]) -> None:
    """Make uWSGI's spoolers call ``handler``, even if the program sets another handler later.

    :param keep: called with each other handler: the present one and any that is set later.
    """
    found = module()
    if found is None:
        return
    _fill_low_descriptors()

    class Module(ModuleType):
        """The uwsgi module with a fixed attribute ``spooler``, which uWSGI reads from the module's dict."""

        def __setattr__(self, name: str, value: Any) -> None:
            if name != "spooler":
                super().__setattr__(name, value)
            elif value is not handler and callable(value):
                keep(value)

    former = found.__dict__.get("spooler")
    if former is not handler and callable(former):
        keep(former)
    found.__dict__["spooler"] = handler
    found.__class__ = Module


def _fill_low_descriptors() -> None:
    """Open descriptors until the standard ones are taken.

    A spooler process other than the first starts with descriptor 0 closed. After the imports of ``spooler-import``
    uWSGI opens /dev/null as descriptor 0, over any file that was opened in the meantime.
    """
    while True:
        fd = os.open(os.devnull, os.O_RDWR)
        if fd > 2:
            os.close(fd)
            return


def text(value: object) -> str:
    """Return a value of the module, which may be bytes, as a text."""
    return value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else str(value)
