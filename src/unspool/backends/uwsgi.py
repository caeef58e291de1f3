"""Real uWSGI, from within: the only importer of the ``uwsgi`` module.

So far it tells where uWSGI's spoolers are. They are spool directories like any other.
"""

import sys
from types import ModuleType

__all__ = ["spoolers"]


def spoolers() -> list[str]:
    """The directories of uWSGI's ``spooler`` options; empty outside uWSGI."""
    module = _uwsgi()
    if module is None:
        return []
    options = {_text(key): value for key, value in module.opt.items()}
    found = options.get("spooler", [])
    return [_text(one) for one in (found if isinstance(found, list) else [found])]


def _uwsgi() -> ModuleType | None:
    """The module that uWSGI itself puts there; a package of that name on the path has no options."""
    module = sys.modules.get("uwsgi")
    return module if hasattr(module, "opt") else None


def _text(value: object) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
