"""From a claim to an outcome: find the task, run it, and read its verdict. The only I/O is that of the task.

::

    Claim --prepare--> Call --run, returned, raised--> Ending --conclude--> Outcome(verdict, disposition)
              |
              +------> Outcome   (damaged, unknown, or out of crashes: there is nothing to run)

The objects of a task may contain any code: a result may raise on attribute access, and an exception when it is
converted to text. ``run`` and ``returned`` inspect such objects, and raise what these raise. ``raised`` inspects an
exception, and raises nothing. An ``Ending`` contains none of these objects.
"""

import os
import random as _random
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple

from . import codec, failure
from .errors import Damaged, Dead, NoHandler, TaskTimeout
from .message import Ack, Bury, Claim, Content, Disposition, Message, Outcome, Retry, Verdict, reason_of
from .options import TaskOptions
from .results import ResultDead, ResultRescheduled, ResultSkipped, TaskResult, is_awaitable
from .retry import MAX_CRASHES, RetryPolicy, next_attempt
from .tasks import SpoolerTask, spooler_task_types

__all__ = ["Call", "Ending", "Unfinished", "conclude", "delay_after", "prepare", "raised", "returned", "run"]

_PACKAGE = os.path.dirname(__file__) + os.sep
_traceback: Any = vars(BaseException)["__traceback__"].__get__  # a subclass can replace the attribute
_bases: Any = vars(type)["__mro__"].__get__  # a metaclass can replace the attribute
_DEFAULT_RETRY = RetryPolicy()
_YOUNG_RETRY = 5.0  # seconds until an unreadable file of another program is read again


class Call(NamedTuple):
    """A task that is ready to run, with its options."""

    task: SpoolerTask
    options: TaskOptions


class Ending(NamedTuple):
    """How a run ended: processed, skipped, rescheduled, timeout or dead, with a traceback or reason.

    :param raised: the type of the exception that the run has raised.
    """

    verdict: Verdict
    error: str = ""
    raised: type[BaseException] | None = None


class Unfinished(NamedTuple):
    """A coroutine. Its result is passed to ``returned`` and its exception to ``raised``."""

    coroutine: Awaitable[Any]


def prepare(claim: Claim, content: Content, now: float, random: Callable[[], float] = _random.random) -> Call | Outcome:
    """Return the call for a claim, or the outcome of a claim that must not or cannot run.

    :param now: unix seconds.
    """
    if claim.crashes >= MAX_CRASHES:
        return Outcome(Verdict.DEAD, Bury(reason := f"killed its worker {claim.crashes} times", begun=False), reason)
    try:
        message = _message(content)
    except Damaged as error:
        if not content.sealed and claim.attempts == 1:
            # A file without a seal that another program is still copying looks the same.
            return Outcome(Verdict.RESCHEDULED, Retry(now + _YOUNG_RETRY), failure.message(error))
        reason = failure.message(error)
        return Outcome(Verdict.CORRUPT, Bury(reason, corrupt=True, begun=False), reason)
    except BaseException as error:  # noqa: BLE001  whatever the classes of an argument raise while it is rebuilt
        return _unhandled(claim, now, random, failure.reason(error))
    try:
        task = _task_type(message.message)(_name(claim), message.message, message.payload)
        options = task.run_options()
    except NoHandler as error:
        return _unhandled(claim, now, random, failure.message(error))
    except BaseException as error:  # noqa: BLE001  a subclass's constructor or options: its failure
        return _again(Verdict.RESCHEDULED, claim, _DEFAULT_RETRY, now, random, _describe(error))
    if claim.crashes and claim.attempts > options.retry.max_attempts:
        # Attempts that an older version counted may have found no handler, so this needs a crash.
        return Outcome(Verdict.DEAD, Bury(reason := _used_up(claim, options.retry), begun=False), reason)
    return Call(task, options)


def delay_after(options: TaskOptions, claim: Claim, random: Callable[[], float] = _random.random) -> float | None:
    """Return the seconds until the next run if this one has to be killed; None if it is the last attempt."""
    return next_attempt(options.retry, claim.attempts, 0.0, random)


def run(call: Call) -> Ending | Unfinished:
    """Run the task. Return its ending, or for ``async def`` functions a coroutine that has not run yet.

    :raises BaseException: the exception that the task raises, which ``raised`` reads.
    """
    result: Any = call.task.process()
    if result is True:  # as nearly all tasks return
        return _PROCESSED
    return Unfinished(result) if is_awaitable(result) else returned(result)


def returned(result: Any) -> Ending:
    """Return the ending for the result of a run.

    :raises BaseException: the exception that the result raises when it is inspected.
    """
    kind = type(result)  # not its ``__class__``, which may run code
    if result is None:
        return _SKIPPED
    if not issubclass(kind, TaskResult):
        return _PROCESSED
    exception = getattr(result, "exception", None)
    if exception is not None and not issubclass(type(exception), BaseException):  # possible in a subclass
        exception = TypeError(f"the task's result has exception={failure.shown(exception)}, which is not an exception")
    if issubclass(kind, ResultRescheduled):
        return (
            Ending(Verdict.RESCHEDULED, "the task asked to be rescheduled")
            if exception is None
            else raised(exception)._replace(raised=None)  # it asks for another run itself
        )
    if issubclass(kind, ResultDead):
        reason = result.result if type(result.result) is str and result.result else "the task ended itself as dead"
        return Ending(Verdict.DEAD, reason if exception is None else _describe(exception))
    error = "" if exception is None else _describe(exception)
    return Ending(Verdict.SKIPPED if issubclass(kind, ResultSkipped) else Verdict.PROCESSED, error)


def raised(exception: BaseException) -> Ending:
    """Return the ending for the exception of a run."""
    kind = type(exception)
    verdict = Verdict.RESCHEDULED
    if issubclass(kind, TaskTimeout):
        verdict = Verdict.TIMEOUT
    elif issubclass(kind, Dead):
        verdict = Verdict.DEAD
    return Ending(verdict, _describe(exception), kind)


def conclude(
    options: TaskOptions,
    claim: Claim,
    ending: Ending,
    now: float,
    random: Callable[[], float] = _random.random,
) -> Outcome:
    """Return the outcome of an ending, according to the task's options.

    :param now: unix seconds.
    """
    verdict, error, kind = ending
    if verdict is Verdict.PROCESSED:
        return Outcome(verdict, Ack(), error) if error else _ACK_PROCESSED
    if verdict is Verdict.SKIPPED:
        if options.release_skipped:
            return _again(verdict, claim, options.retry, now, random, "left for another handler")
        return Outcome(verdict, Ack(), error) if error else _ACK_SKIPPED
    if verdict is Verdict.DEAD or (options.no_retry_for and _is_one_of(kind, options.no_retry_for)):
        return Outcome(Verdict.DEAD, Bury(reason_of(error)), error)
    return _again(verdict, claim, options.retry, now, random, error)


def _is_one_of(kind: type[BaseException] | None, types: Sequence[type[BaseException]]) -> bool:
    """Return whether an exception is of one of these types, without running code of its class."""
    return kind is not None and any(base in types for base in _bases(kind))


_PROCESSED, _SKIPPED = Ending(Verdict.PROCESSED), Ending(Verdict.SKIPPED)
_ACK_PROCESSED, _ACK_SKIPPED = Outcome(Verdict.PROCESSED, Ack()), Outcome(Verdict.SKIPPED, Ack())


def _again(
    verdict: Verdict, claim: Claim, policy: RetryPolicy, now: float, random: Callable[[], float], error: str
) -> Outcome:
    at = next_attempt(policy, claim.attempts, now, random)
    disposition: Disposition = Retry(at) if at is not None else Bury(reason_of(error))
    return Outcome(verdict if at is not None else Verdict.DEAD, disposition, error)


def _unhandled(claim: Claim, now: float, random: Callable[[], float], reason: str) -> Outcome:
    """Keep the task until a deploy adds its handler, without counting an attempt."""
    at = next_attempt(_DEFAULT_RETRY, claim.unhandled + 1, now, random)
    if at is None:
        return Outcome(Verdict.DEAD, Bury(reason_of(reason), begun=False), reason)
    return Outcome(Verdict.RESCHEDULED, Retry(at, begun=False), reason)


def _used_up(claim: Claim, policy: RetryPolicy) -> str:
    begun = claim.attempts - 1
    if begun == 1:
        return "its only attempt ended with its worker"
    return f"its {policy.max_attempts} attempts are used up; {claim.crashes} of {begun} runs ended with their worker"


def _message(content: Content) -> Message:
    """Return the message. A message for the program's own handler is not decoded."""
    if codec.BARE in spooler_task_types and codec.is_bare(content):
        return codec.decode_bare(content)
    return codec.decode(content)


def _task_type(text: str) -> type[SpoolerTask]:
    if not text:
        if codec.BARE in spooler_task_types:
            return spooler_task_types[codec.BARE]
        raise NoHandler(
            "a message of a program's own uwsgi.spool(); this program has no unspool.compat.spooler_handler for it"
        )
    type_id = text.removeprefix(codec.TYPE_PREFIX)
    found = spooler_task_types.get(type_id)
    if found is None and type_id != text:
        raise NoHandler(
            f"no task type {type_id[:200]!r} in this program; was it renamed, or is its module not imported?"
        )
    return found or SpoolerTask


def _name(claim: Claim) -> str:
    return claim.id.rpartition("/")[2]


def _describe(exception: BaseException) -> str:
    """Return the reason, and the traceback from the task's own code on."""
    frames = _traceback(exception)
    while frames is not None and frames.tb_next is not None and _is_ours(frames.tb_frame.f_code.co_filename):
        frames = frames.tb_next
    return failure.describe(exception, frames)


def _is_ours(filename: str) -> bool:
    return filename.startswith(_PACKAGE)
