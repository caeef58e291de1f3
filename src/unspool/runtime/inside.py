"""Running tasks inside real uWSGI: the handler that its spooler processes call.

uWSGI has found, locked and read the task; the handler decides what becomes of it, by path only, and answers with one
of uWSGI's
codes: *done* (uWSGI removes the file) or *again* (it stays, and its time says when). uWSGI's *not mine* is never
used: it would
offer the task again at every scan, for ever.
"""

import asyncio
import logging
import os
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from .. import codec, dispatch
from ..backends.base import Backend, Clock
from ..errors import Damaged
from ..message import Ack, Claim, Disposition, Envelope, Outcome, Record, Refusal, RefusalKind, Verdict
from .log import log_end
from .timelimit import limit

__all__ = ["DONE", "Handler", "Inside"]

DONE, AGAIN = -2, -1  # uwsgi.SPOOL_OK, uwsgi.SPOOL_RETRY
Handler = Callable[[dict[Any, Any]], Any]

_log = logging.getLogger("unspool")
_COMPLAINTS = 10_000
_OURS = ("msg", "unspool_task", "ud_spool_func")


class Inside(Protocol):
    """What the handler needs of a spooler inside uWSGI."""

    @property
    def backend(self) -> Backend:
        """Its directory."""

    def ref(self, name: str) -> str | None:
        """The ref of the task that uWSGI calls by this name just now; None if it is not in this directory."""

    def envelope(self, variables: Mapping[Any, Any]) -> Envelope:
        """What uWSGI has read.

        :raises Damaged: if its seal does not match.
        """

    def adopt(self, ref: str, envelope: Envelope) -> Claim | Refusal:
        """Takes the task, its attempt counted."""

    def set_aside(self, ref: str, reason: str) -> None:
        """Moves a damaged task out of the way."""

    def urgent(self, ref: str) -> list[str]:
        """The refs of due tasks with a priority that uWSGI would not look at, in order; to be run before ``ref``."""


class SpoolerHandler:
    """Called by uWSGI with each task: ``uwsgi.spooler``.

    :param insides: finds the spoolers of this uWSGI.
    :param former: a handler of the program's own, for messages that are not ours.
    """

    def __init__(
        self, insides: Callable[[], list[Inside]], clock: Clock = time.time, former: Handler | None = None
    ) -> None:
        self._insides = insides
        self._clock = clock
        self.former = former
        self._complained: set[str] = set()

    def __call__(self, variables: dict[Any, Any]) -> Any:
        name = os.fsdecode(variables["spooler_task_name"])  # bytes, as are all values
        for inside in self._insides():
            ref = inside.ref(name)
            if ref is not None:
                for urgent in inside.urgent(ref):
                    self._run_urgent(inside, urgent)
                return self._handle(inside, ref, variables)
        _log.error("task %s is in none of this uWSGI's spoolers; it is left alone", name)
        return AGAIN

    def _handle(self, inside: Inside, ref: str, variables: dict[Any, Any]) -> Any:
        try:
            envelope = inside.envelope(variables)
        except Damaged as error:
            inside.set_aside(ref, str(error))
            self._note(inside, Record(ref, "?", Verdict.CORRUPT, 0, self._clock(), 0.0, os.getpid(), str(error)), None)
            return AGAIN
        if self.former is not None and not any(key in envelope.vars for key in _OURS):
            return self.former(variables)
        claim = inside.adopt(ref, envelope)
        if isinstance(claim, Refusal) and claim.kind is RefusalKind.EARLY and claim.until is not None:
            # uWSGI compares whole seconds, so it may be early by less than one.
            time.sleep(max(0.0, min(claim.until - self._clock(), 1.0)))
            claim = inside.adopt(ref, envelope)
        if isinstance(claim, Refusal):
            if (
                claim.kind is RefusalKind.UNUSABLE
                and ref not in self._complained
                and len(self._complained) < _COMPLAINTS
            ):
                self._complained.add(ref)
                _log.warning("task %s is not run: %s", ref, claim.detail)
            return AGAIN  # also if the file is gone: uWSGI would stumble over removing it
        return DONE if isinstance(self._run(inside, claim), Ack) else AGAIN

    def _run_urgent(self, inside: Inside, ref: str) -> None:
        claim = inside.backend.claim(ref)
        if isinstance(claim, Claim):
            self._run(inside, claim)

    def _run(self, inside: Inside, claim: Claim) -> Disposition:
        started = self._clock()
        call = dispatch.prepare(claim, started)
        outcome = call if isinstance(call, Outcome) else self._perform(call, claim)
        until = inside.backend.settle(claim, outcome.disposition)
        label = codec.task_label(claim.envelope.vars)
        duration = max(self._clock() - started, 0.0)
        record = Record(claim.id, label, outcome.verdict, claim.attempts, started, duration, os.getpid(), outcome.error)
        self._note(inside, record, until)
        return outcome.disposition

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
