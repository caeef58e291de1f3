"""The import path that programs written for uwsgiconf use; the same objects as in ``unspool``.

There is no ``__init__.py`` beside it: an installed uwsgiconf package takes precedence as a whole.
"""

from unspool import (
    ResultProcessed,
    ResultRescheduled,
    ResultSkipped,
    Spooler,
    SpoolerFunctionCallTask,
    SpoolerTask,
    TaskResult,
    spooler_task_types,
)

__all__ = [
    "ResultProcessed",
    "ResultRescheduled",
    "ResultSkipped",
    "Spooler",
    "SpoolerFunctionCallTask",
    "SpoolerTask",
    "TaskResult",
    "spooler_task_types",
]
