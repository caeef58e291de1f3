"""The checks of ``unspool doctor``.

Each function yields findings, and raises none of the errors that it checks for.
"""

from .application import application
from .configuration import configuration, variables
from .finding import FAIL, OK, WARN, Finding
from .spooler import server, spooler
from .system import kernel, python
from .uwsgi import uwsgi

__all__ = [
    "FAIL",
    "OK",
    "WARN",
    "Finding",
    "application",
    "configuration",
    "kernel",
    "python",
    "server",
    "spooler",
    "uwsgi",
    "variables",
]
