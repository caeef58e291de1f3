"""Replacements for programs that leave uWSGI: what they imported from uWSGI, under the same names, without uWSGI.

``unspool.compat.uwsgidecorators`` replaces ``uwsgidecorators``. ``unspool.compat.uwsgi`` replaces the parts of the
``uwsgi`` module that concern its spooler. Both also work inside uWSGI, so a program can change its imports first.
"""

from .uwsgi import SPOOL_IGNORE, SPOOL_OK, SPOOL_RETRY, spool, spooler_handler

__all__ = ["SPOOL_IGNORE", "SPOOL_OK", "SPOOL_RETRY", "spool", "spooler_handler"]
