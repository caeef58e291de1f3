"""unspool under the import path of an installed uwsgiconf, for as long as this process lives.

::

    import unspool.compat.uwsgiconf                  # first
    from uwsgiconf.runtime.spooler import Spooler    # unspool's

If uwsgiconf is not installed, ``uwsgiconf.runtime.spooler`` is unspool's module without this import.
"""

import sys

from ..errors import ConfigurationError
from . import seed

_PATH = "uwsgiconf.runtime.spooler"


def _take_over() -> None:
    """Put unspool's module at uwsgiconf's import path.

    :raises ConfigurationError: if uwsgiconf's own module has already been imported, because its objects are in use.
    """
    known = sys.modules.get(_PATH)
    if known is not None and getattr(known, "Spooler", None) is not seed.Spooler:
        raise ConfigurationError(
            f"{_PATH} was imported from {getattr(known, '__file__', 'elsewhere')} before; "
            "import unspool.compat.uwsgiconf first, at the top of the program"
        )
    sys.modules[_PATH] = seed


_take_over()
