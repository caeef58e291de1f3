"""unspool under the import path of an installed uwsgiconf, for as long as this process lives.

::

    import unspool.compat.uwsgiconf                  # first
    from uwsgiconf.runtime.spooler import Spooler    # unspool's

Where uwsgiconf is not installed, ``uwsgiconf.runtime.spooler`` is unspool's without this.
"""

import sys
from types import ModuleType

import unspool

from ..errors import ConfigurationError

_PATH = "uwsgiconf.runtime.spooler"
_NAMES = (
    "ResultProcessed",
    "ResultRescheduled",
    "ResultSkipped",
    "Spooler",
    "SpoolerFunctionCallTask",
    "SpoolerTask",
    "TaskResult",
    "spooler_task_types",
)


def _take_over() -> None:
    """Put a module of unspool's objects at uwsgiconf's import path.

    :raises ConfigurationError: if uwsgiconf's own module has already been imported, because its objects are in use.
    """
    known = sys.modules.get(_PATH)
    if known is not None and getattr(known, "Spooler", None) is not unspool.Spooler:
        raise ConfigurationError(
            f"{_PATH} was imported from {getattr(known, '__file__', 'elsewhere')} before; "
            "import unspool.compat.uwsgiconf first, at the top of the program"
        )
    module = ModuleType(_PATH, unspool.__doc__)
    module.__dict__.update({name: getattr(unspool, name) for name in _NAMES}, __all__=list(_NAMES))
    sys.modules[_PATH] = module


_take_over()
