"""unspool: run functions later, in other processes, with no broker to run and no task lost."""

from .current import CurrentTask, current
from .errors import Dead, UnspoolError
from .functions import FunctionTask
from .logger import keep_enabled as _keep_enabled
from .message import Message
from .results import ResultDead, ResultProcessed, ResultRescheduled, ResultSkipped, TaskResult
from .settings import configure
from .spooler import Spooler, raw_message
from .tasks import SpoolerFunctionCallTask, SpoolerTask, spooler_task_types
from .uwsgi import enter as _enter_uwsgi

__version__ = "0.1.0.dev0"

_keep_enabled()
_enter_uwsgi()

__all__ = [
    "CurrentTask",
    "Dead",
    "FunctionTask",
    "Message",
    "ResultDead",
    "ResultProcessed",
    "ResultRescheduled",
    "ResultSkipped",
    "Spooler",
    "SpoolerFunctionCallTask",
    "SpoolerTask",
    "TaskResult",
    "UnspoolError",
    "configure",
    "current",
    "raw_message",
    "spooler_task_types",
]
