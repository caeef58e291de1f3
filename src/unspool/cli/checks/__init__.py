"""What ``unspool doctor`` looks at. Each function gives findings; none of them raises for what it looks for."""

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
