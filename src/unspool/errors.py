"""Everything unspool raises, in one tree.

::

    UnspoolError
    ├── ConfigurationError      settings that cannot be used             (command line: status 2)
    │   ├── NoSpooler           no spooler is configured, or not this one
    │   └── AppError            the application could not be imported
    ├── SpoolerUnusable         the place: missing, not trusted, not writable, full      (status 3)
    ├── Refused                 what the caller gave; nothing was sent
    │   ├── FunctionRefused     a lambda, a local function, a wrong option at decoration
    │   ├── PayloadRefused      arguments that the serialiser cannot take
    │   └── OptionRefused       an invalid priority, delay, period or other option
    ├── Damaged                 bytes that are not a task, or not the task that was sent
    │   └── Unsigned            whole, and not signed with any of our secret keys
    ├── AmbiguousId             a piece of an id that several tasks have
    ├── NoHandler               a task whose function or type this program does not know
    ├── TaskBusy                an operation on a task that is running just now
    ├── ClaimLost               a worker that no longer holds the task it ran: it closed the file's descriptor
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
    """A spooler's place cannot be used: it is not a directory, not writable, open to other users, or full.

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
    """What the caller gave was refused; nothing was sent."""


class FunctionRefused(Refused, TypeError):
    """A function that no other process could find, such as a lambda or a local function."""


class PayloadRefused(Refused, TypeError):
    """Arguments or a payload that the task's serialiser cannot take."""


class OptionRefused(Refused, ValueError):
    """An option whose value is not one it can have."""


class Damaged(UnspoolError, ValueError):
    """Bytes that are not a task, or not the task that was sent."""


class Unsigned(Damaged):
    """A task that is whole, but is not signed with any of the secret keys that are set."""


class AmbiguousId(UnspoolError, LookupError):
    """A piece of an id that several tasks have."""


class NoHandler(UnspoolError, LookupError):
    """A task whose function or type this program does not know."""


class TaskBusy(UnspoolError):
    """The task is running just now, so it was left alone."""


class ClaimLost(UnspoolError):
    """A task closed its worker's descriptors, including that of its own lock.

    Another worker may have the task by now.
    """


class TaskTimeout(BaseException):
    """Raised inside a task that overran its time limit.

    Not an ``Exception``: a task's own ``except Exception`` must not swallow it.
    """
