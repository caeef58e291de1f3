"""The import path that programs written for uwsgiconf use; the same objects as in ``unspool``.

This folder is at the end of ``sys.path`` (by ``unspool-uwsgiconf.pth``), and has no ``__init__.py``: an installed
uwsgiconf takes precedence. See ``docs/decisions/0013-beside-uwsgiconf.md``.
"""

from unspool.compat.seed import *  # noqa: F403
from unspool.compat.seed import __all__  # noqa: F401
