"""Running tasks inside real uWSGI: the handler that its spooler processes call.

uWSGI has found, locked and read the task; the handler decides what becomes of it, by path only, and answers with one
of uWSGI's codes: *done* (uWSGI removes the file) or *again* (it stays, and its time says when). uWSGI's *not mine* is
never used: it would offer the task again at every scan, for ever.

A call may be for a bell, or come while there is one: then a task with a priority is run instead (see
``backends/uwsgi``), and uWSGI has to look again at once.
"""

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

from .. import codec, dispatch
from ..backends.base import Backend, Clock
from ..errors import ConfigurationError, Damaged, NoHandler, SpoolerUnusable
from ..message import Ack, Claim, Disposition, Envelope, Outcome, Record, Refusal, RefusalKind, Verdict
from ..tasks import find_function, spooler_task_types
from .log import log_end
from .timelimit import limit

__all__ = ["DONE", "Handler", "Inside"]

DONE, AGAIN = -2, -1  # uwsgi.SPOOL_OK, uwsgi.SPOOL_RETRY
Handler = Callable[[dict[Any, Any]], Any]

_log = logging.getLogger("unspool")
_COMPLAINTS = 10_000


class Inside(Protocol):
    """What the handler needs of a spooler inside uWSGI."""

    @property
    def backend(self) -> Backend:
        """Its directory."""

    def enter(self) -> None:
        """Has everybody who sends here know what this uWSGI needs."""

    def ref(self, name: str) -> str | None:
        """The ref of the task that uWSGI calls by this name just now; None if it is not in this directory."""

    def envelope(self, variables: Mapping[Any, Any]) -> Envelope:
        """What uWSGI has read.

        :raises Damaged: if its seal does not match, or it is not signed where a secret key is set.
        """

    def holding(self, ref: str, envelope: Envelope) -> contextlib.AbstractContextManager[None]:
        """Keeps all others in this process from opening the file, which would drop uWSGI's lock."""

    def adopt(self, ref: str, envelope: Envelope) -> Claim | Refusal:
        """Takes the task, its attempt counted."""

    def crashes(self, ref: str) -> int:
        """How many of the task's runs are known to have ended with their worker."""

    def set_aside(self, ref: str, reason: str) -> None:
        """Moves a damaged task out of the way."""

    def is_bell(self, ref: str) -> bool:
        """Whether this is no task but a bell."""

    def rung(self) -> bool:
        """Whether tasks with a priority should be run before others."""

    def urgent(self, ref: str) -> Iterator[str]:
        """The refs of due tasks with a priority that uWSGI would not look at, in order; ``ref`` is what it has locked.
        To be left at the first that can be run."""

    def later(self, ref: str, until: float | None) -> None:
        """The task of ``ref`` is not to be offered before then; None if somebody else runs it."""

    def wake(self) -> None:
        """Has all processes of this spooler look again, this one after the call."""


class SpoolerHandler:
    """Called by uWSGI with each task: ``uwsgi.spooler``.

    :param insides: finds the spoolers of this uWSGI.
    """

    def __init__(self, insides: Callable[[], list[Inside]], clock: Clock = time.time) -> None:
        self._insides = insides
        self._clock = clock
        self._former: Handler | None = None
        self._complained: set[str] = set()

    def keep(self, former: Handler) -> None:
        """Takes on a handler of the program's own, for the messages that are not ours."""
        self._former = former
        _log.warning("uwsgi.spooler is unspool's; %r gets the messages that are not unspool's", former)

    def __call__(self, variables: dict[Any, Any]) -> Any:
        name = os.fsdecode(variables["spooler_task_name"])  # bytes, as are all values
        try:
            insides = self._insides()
        except ConfigurationError as error:
            self._complain(f"no task is run: {error}")
            return AGAIN
        for inside in insides:
            ref = inside.ref(name)
            if ref is not None:
                try:
                    return self._handle(inside, ref, variables)
                except SpoolerUnusable as error:
                    self._complain(str(error))
                    return AGAIN
        _log.error("task %s is in none of this uWSGI's spoolers; it is left alone", name)
        return AGAIN

    def _handle(self, inside: Inside, ref: str, variables: dict[Any, Any]) -> Any:
        bell = inside.is_bell(ref)
        if not bell:
            try:
                envelope = inside.envelope(variables)
            except Damaged as error:
                return self._set_aside(inside, ref, str(error))
        if inside.backend.control.paused:
            return AGAIN
        if (bell or inside.rung()) and self._run_urgent(inside, ref):
            return AGAIN
        if bell:
            return AGAIN
        with inside.holding(ref, envelope):
            if self._former is not None and not _is_ours(envelope):
                return self._hand_on(self._former, variables)
            return self._run_adopted(inside, ref, envelope)

    def _set_aside(self, inside: Inside, ref: str, reason: str) -> int:
        inside.set_aside(ref, reason)
        record = Record(self._id(inside, ref), "?", Verdict.CORRUPT, 0, self._clock(), 0.0, os.getpid(), reason)
        self._note(inside, record, None)
        return AGAIN

    def _complain(self, text: str) -> None:
        """Says it once: uWSGI offers the same task again and again."""
        if text not in self._complained and len(self._complained) < _COMPLAINTS:
            self._complained.add(text)
            _log.error("%s", text)

    def _hand_on(self, former: Handler, variables: dict[Any, Any]) -> Any:
        self._former = None  # one that chains to the handler it found, which is this one, must come to an end
        try:
            return former(variables)
        finally:
            self._former = former

    def _run_adopted(self, inside: Inside, ref: str, envelope: Envelope) -> int:
        crashes = inside.crashes(ref)
        claim = inside.adopt(ref, envelope)
        if isinstance(claim, Refusal) and claim.kind is RefusalKind.EARLY and claim.until is not None:
            wait = claim.until - self._clock()
            if wait < 1.0:  # uWSGI compares whole seconds, so it may be early by less than one
                time.sleep(max(0.0, wait))
                claim = inside.adopt(ref, envelope)
        if isinstance(claim, Refusal):
            self._refused(inside, ref, claim)
            return AGAIN  # also if the file is gone: uWSGI would stumble over removing it
        done = isinstance(self._run(inside, claim, crashes), Ack)
        return DONE if done and os.path.lexists(claim.id) else AGAIN

    def _run_urgent(self, inside: Inside, ref: str) -> bool:
        """Whether a task with a priority was run instead."""
        for urgent in inside.urgent(ref):
            crashes = inside.crashes(urgent)
            claim = inside.backend.claim(urgent)
            if isinstance(claim, Claim):
                inside.wake()
                self._run(inside, claim, crashes)
                return True
            self._refused(inside, urgent, claim)
            inside.later(urgent, claim.until)
        return False

    def _refused(self, inside: Inside, ref: str, refusal: Refusal) -> None:
        if refusal.kind is RefusalKind.CORRUPT:
            error = refusal.detail
            record = Record(self._id(inside, ref), "?", Verdict.CORRUPT, 0, self._clock(), 0.0, os.getpid(), error)
            self._note(inside, record, None)
        elif refusal.kind is RefusalKind.UNUSABLE:
            self._complain(f"task {self._id(inside, ref)} is not run: {refusal.detail}")

    def _run(self, inside: Inside, claim: Claim, crashes: int) -> Disposition:
        started = self._clock()
        label = codec.task_label(claim.envelope.vars)
        if claim.crashes > crashes:
            self._mourn(inside, claim, label)
        call = dispatch.prepare(claim, started)
        outcome = call if isinstance(call, Outcome) else self._perform(call, claim)
        until = inside.backend.settle(claim, outcome.disposition)
        duration = max(self._clock() - started, 0.0)
        record = Record(claim.id, label, outcome.verdict, claim.attempts, started, duration, os.getpid(), outcome.error)
        self._note(inside, record, until)
        return outcome.disposition

    def _mourn(self, inside: Inside, claim: Claim, label: str) -> None:
        """The run before this one ended with its process, and nobody was left to say so; unless that was a worker of
        ``unspool run``."""
        attempt = claim.attempts - 1
        if all(record.attempt != attempt for record in inside.backend.history(id=claim.id)):
            error = "its process ended while it ran: it crashed, overran uWSGI's time limit, or uWSGI was stopped"
            self._note(inside, Record(claim.id, label, Verdict.CRASHED, attempt, self._clock(), 0.0, 0, error), None)

    def _perform(self, call: dispatch.Call, claim: Claim) -> Outcome:
        result: Any = None
        exception: BaseException | None = None
        try:
            with limit(call.options.timeout):
                result = dispatch.run(call)
                if hasattr(result, "__await__"):
                    result = asyncio.run(result)
        except BaseException as error:  # noqa: BLE001  whatever a task raises, sys.exit() included, is its failure
            exception = error
        return dispatch.conclude(call, claim, result, exception, self._clock())

    def _note(self, inside: Inside, record: Record, until: float | None) -> None:
        log_end(inside.backend.name, record, until)
        try:
            inside.backend.record([record])
        except Exception as error:  # noqa: BLE001  whatever a database may raise costs history, and nothing else
            _log.warning("history of %s cannot be written: %s; tasks go on", inside.backend.name, error)

    @staticmethod
    def _id(inside: Inside, ref: str) -> str:
        return f"{inside.backend.name}/{ref}"


def _is_ours(envelope: Envelope) -> bool:
    """Whether this program runs the message by unspool, and not by its own ``uwsgi.spooler``."""
    if codec.is_bare(envelope):
        return codec.BARE in spooler_task_types
    if "ud_spool_func" in envelope.vars and not envelope.sealed:
        try:
            find_function(envelope.vars["ud_spool_func"].decode("utf-8", "replace"))
        except NoHandler:
            return False
    return True
