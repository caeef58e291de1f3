"""For programs that leave uWSGI: what they imported from uWSGI, under the same names, without uWSGI.

``unspool.compat.uwsgidecorators`` stands for ``uwsgidecorators``, ``unspool.compat.uwsgi`` for those parts of the
``uwsgi`` module that are about its spooler. Both also work inside uWSGI, so a program can change its imports first.
"""

from .uwsgi import SPOOL_IGNORE, SPOOL_OK, SPOOL_RETRY, spool, spooler_handler

__all__ = ["SPOOL_IGNORE", "SPOOL_OK", "SPOOL_RETRY", "spool", "spooler_handler"]
