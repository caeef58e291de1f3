"""All errors that unspool raises, in one tree.

::

    UnspoolError
    ├── ConfigurationError      settings that cannot be used             (command line: status 2)
    │   ├── NoSpooler           no spooler is configured, or not this one
    │   └── AppError            the application could not be imported
    ├── SpoolerUnusable         a spooler that is missing, not trusted, not writable or full   (status 3)
    ├── Refused                 invalid arguments of a call; nothing was sent
    │   ├── FunctionRefused     a lambda, a local function, a wrong option at decoration
    │   ├── PayloadRefused      arguments that the serialiser cannot take
    │   └── OptionRefused       an invalid priority, delay, period or other option
    ├── Damaged                 bytes that are not a task, or not the task that was sent
    │   └── Unsigned            complete, but not signed with any of our secret keys
    ├── AmbiguousId             a part of an id that several tasks have
    ├── NoHandler               a task whose function or type this program does not know
    ├── TaskBusy                an operation on a task that is running
    ├── ClaimLost               a worker lost its claim, because the task closed its descriptor
    └── TaskTimeout             raised inside a task that overran its time limit
"""

__all__ = [
    "AmbiguousId",
    "AppError",
    "ClaimLost",
    "ConfigurationError",
    "Damaged",
    "FunctionRefused",
    "NoHandler",
    "NoSpooler",
    "OptionRefused",
    "PayloadRefused",
    "Refused",
    "SpoolerUnusable",
    "TaskBusy",
    "TaskTimeout",
    "Unsigned",
    "UnspoolError",
]


class UnspoolError(Exception):
    """The root of all errors of this package."""


class ConfigurationError(UnspoolError, ValueError):
    """Settings that cannot be used."""


class NoSpooler(ConfigurationError):
    """No spooler is configured, or none of that name."""


class AppError(ConfigurationError):
    """The application of a worker could not be imported.

    :param traceback: the traceback as text; empty if it would repeat the message.
    """

    def __init__(self, message: str, traceback: str = "") -> None:
        super().__init__(message)
        self.traceback = traceback


class SpoolerUnusable(UnspoolError, OSError):
    """A spooler cannot be used: it is not a directory, is not writable, is open to other users, or is full.

    If a send raises this, ``sent`` has the ids of the tasks that are in the queue. Send only the other tasks again.
    """

    sent: tuple[str, ...] = ()
    """The ids of the tasks that a failed send has put into the queue, in the order of the call.

    These tasks run, though a power cut may still lose them. Empty if nothing was sent.
    """

    def __str__(self) -> str:
        return self.strerror or super().__str__()


class SpoolerUnreachable(SpoolerUnusable):
    """A server cannot be reached now, or did not carry out a request for a temporary reason. The same call may succeed
    later."""


class Refused(UnspoolError):
    """The arguments of a call are invalid; nothing was sent."""


class FunctionRefused(Refused, TypeError):
    """A function that no other process could find, such as a lambda or a local function."""


class PayloadRefused(Refused, TypeError):
    """Arguments or a payload that the task's serialiser cannot take."""


class OptionRefused(Refused, ValueError):
    """An option has an invalid value."""


class Damaged(UnspoolError, ValueError):
    """Bytes that are not a task, or not the task that was sent."""


class Unsigned(Damaged):
    """A task that is complete, but not signed with any of the secret keys that are set."""


class AmbiguousId(UnspoolError, LookupError):
    """A part of an id that several tasks have."""


class Dead(UnspoolError):
    """Raised by a task to end as dead: it is set aside and does not run again, whatever attempts are left."""


class NotInTask(UnspoolError, LookupError):
    """``unspool.current()`` was called where no task runs."""


class NoHandler(UnspoolError, LookupError):
    """A task whose function or type this program does not know."""


class TaskBusy(UnspoolError):
    """The task is running, so it was not changed."""


class ClaimLost(UnspoolError):
    """A task closed its worker's descriptors, including that of its own lock.

    Another worker may have the task by now.
    """


class TaskTimeout(BaseException):
    """Raised inside a task that overran its time limit.

    It is not an ``Exception``, so that the task's own ``except Exception`` does not catch it.
    """
