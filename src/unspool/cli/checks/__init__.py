"""The checks of ``unspool doctor``.

Each function yields findings, and raises none of the errors that it checks for.
"""

from ...finding import FAIL, OK, WARN, Finding
from .application import application
from .configuration import configuration, variables
from .spooler import spooler
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
    "spooler",
    "uwsgi",
    "variables",
]
