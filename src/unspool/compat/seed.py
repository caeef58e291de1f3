"""The names of ``uwsgiconf.runtime.spooler``; they are the same objects as in ``unspool``."""

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
