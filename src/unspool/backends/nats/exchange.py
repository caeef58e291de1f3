"""Ends of runs and claims of tasks, in one round trip to the servers.

All requests are written at once, and then their answers are read. In the usual case, a task ends with one record and
two deletions, and a claim of a new task is a conditional record and the message of the task. What turns out to be
another case is repeated with further requests.

A claim is a record of the run, written on the condition that there is no other record about the task.
"""

import contextlib
import itertools
import logging
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from ...errors import Damaged, SpoolerUnreachable
from ...message import (
    Ack,
    Bury,
    Claim,
    Disposition,
    End,
    Envelope,
    Exchanged,
    Refusal,
    RefusalKind,
    Release,
    Retry,
)
from ..base import Clock
from . import ends, runs
from .cluster import Cluster
from .jetstream import JetStream
from .names import LATER, NOW, is_token
from .registrations import Registrations
from .requests import NO_STREAM, ApiError, Conflict, Request, condition, deletion, message_of, read
from .runs import Run
from .stored import Facts, Stored
from .tasks import Tasks

__all__ = ["Exchange", "Held"]

_log = logging.getLogger("unspool")
_LOOK_AGAIN = 2.0
_GONE = RefusalKind.GONE
_numbers = itertools.count(1)


class Held(NamedTuple):
    """The content of a claim: the message that is run, its metadata, and the number of the run's record."""

    stored: Stored
    facts: Facts
    record: int


class Exchange:
    """Settle and claim the tasks of a cluster's spooler.

    :param read: returns the envelope of a message, or raises ``Damaged``.
    """

    def __init__(
        self,
        place: Cluster,
        tasks: Tasks,
        registrations: Registrations,
        read: Callable[[Stored], Envelope],
        clock: Clock,
    ) -> None:
        self._place = place
        self._names = place.names
        self._tasks = tasks
        self._registrations = registrations
        self._envelope = read
        self._clock = clock

    def exchange(self, ended: Sequence[End], refs: Sequence[str]) -> Exchanged:
        """Implement ``Backend.exchange``."""
        given_up = runs.given_up(self._names)
        if not (ended or refs or given_up):
            return Exchanged([], [])
        with self._place.stream() as stream:
            with contextlib.suppress(SpoolerUnreachable):  # ``Registrations`` tries it again
                runs.withdraw_all(stream, self._names, given_up)
            number = next(_numbers)
            try:
                return self._exchange(stream, ended, refs, number)
            except BaseException:
                for ref in refs:
                    runs.give_up(self._names, ref, number)
                raise

    def _exchange(self, stream: JetStream, ended: Sequence[End], refs: Sequence[str], number: int) -> Exchanged:
        tokens, full = [ref for ref in refs if is_token(ref)], None
        if tokens:
            try:
                self._registrations.announce(stream)
            except ApiError as error:  # the ends may make room
                tokens, full = [], error
        acks = [end for end in ended if isinstance(end.disposition, Ack) and end.claim.token is not None]
        run = Run("", 0, 0, 1, runs.me(), number=number, prefetched=len(refs) > 1)
        answers = stream.ask_all([one for end in acks for one in self._end(end)] + self._claims(tokens, run))
        if unreachable := next((one for one in answers if isinstance(one, SpoolerUnreachable)), None):
            raise unreachable
        first = 2 * len(acks)
        acked = dict(zip(map(id, acks), zip(answers[:first:2], answers[1:first:2], strict=True), strict=True))
        until = [self._settle(stream, end, *acked.get(id(end), (None, None))) for end in ended]
        # Without its message, a record is void, so its deletion may be lost.
        stream.tell(*(deletion(self._names.state, end.claim.fence) for end in ended))
        claimed = dict(zip(tokens, zip(answers[first::2], answers[first + 1 :: 2], strict=True), strict=True))
        taken = list[Claim | Refusal]()
        for ref in refs:
            if ref in claimed:
                taken.append(self._claim(stream, run._replace(token=ref), *claimed.pop(ref)))
            else:  # it may be there twice
                taken.append(self._refusal(full) if full else Refusal(RefusalKind.BUSY if is_token(ref) else _GONE))
        return Exchanged(until, self._isolate(stream, taken))

    # --- ends

    def _end(self, end: End) -> tuple[Request, Request]:
        """Return the requests that end a task: the record, and the deletion of the message.

        An end is confirmed when both are. The record expires, so a message whose deletion was lost would run again.
        """
        stored, facts, record = end.claim.token
        request = ends.request(self._names, end.claim.ref, facts.version, record)
        return request, deletion(self._names.tasks, stored.seq)

    def _settle(self, stream: JetStream, end: End, recorded: Any, deleted: Any) -> float | None:
        """Carry out what is left to do for a disposition. Return when to check the task again.

        :param recorded: the answer to the record of an end; None for other dispositions.
        :param deleted: the answer to the deletion of the message; likewise.
        """
        claim, disposition = end.claim, end.disposition
        gone = isinstance(deleted, dict)
        try:
            done = isinstance(recorded, dict) and (gone or deleted.nothing_there)
            done = done or self._carry_out(stream, claim, disposition) or gone
        except ApiError as error:
            if error.code != NO_STREAM:
                raise SpoolerUnreachable(f"the end of task {claim.id} cannot be stored: {error}") from error
            _log.error("the end of task %s cannot be stored: %s", claim.id, error)
            return None
        if not done and not end.repeated:
            _log.warning(
                "task %s was taken over or removed while this process was cut off, so the end of its run here is "
                "ignored",
                claim.id,
            )
        match disposition:
            case Retry(at):
                return at
            case Release():
                return self._clock()
        return None

    def _carry_out(self, stream: JetStream, claim: Claim, disposition: Disposition) -> bool:
        if claim.token is None:
            return self._end_of_dead(stream, claim)
        stored, facts, record = claim.token
        facts = facts._replace(attempts=claim.attempts, alone=False)
        match disposition:
            case Ack():
                return self._tasks.end(stream, stored, record)
            case Retry(at):
                if not disposition.begun:
                    facts = facts._replace(attempts=facts.attempts - 1, unhandled=facts.unhandled + 1)
                return self._tasks.anew(stream, stored, facts._replace(due=at)) > 0
            case Release(crashed=True):
                return self._tasks.anew(stream, stored, facts._replace(crashes=facts.crashes + 1)) > 0
            case Release():
                return self._release(stream, claim.ref, record)
            case Bury():
                begun = facts._replace(attempts=facts.attempts - (not disposition.begun))
                return self._tasks.set_aside(stream, stored, begun, disposition, record)

    def _release(self, stream: JetStream, token: str, record: int) -> bool:
        """Delete the record of a claim, which leaves the task as it was. Return False if the claim was lost.

        The message is not written again, because another process may run it if the claim was given back before.
        """
        if stream.delete(self._names.state, record):
            return True
        run = self._tasks.run_of(stream, token)
        if run is None or run.process != runs.me():
            return False
        return stream.delete(self._names.state, run.seq)  # the record was marked

    def _end_of_dead(self, stream: JetStream, claim: Claim) -> bool:
        """Settle a finished run of a worker that has died. Return False if the claim was lost, or is settled."""
        stored, run = self._tasks.look(stream, claim.ref)
        if stored is None or run is None or run.seq != claim.fence:
            return False
        return self._tasks.end(stream, stored, run.seq)

    # --- claims

    def _claims(self, tokens: Sequence[str], run: Run) -> list[Request]:
        """Return the requests that claim new tasks, which is the usual case: for each the record and the message.

        The record is written before the message is read, so the message is the current one.
        """
        names, data, requests = self._names, run.dump(), list[Request]()
        for token in tokens:
            requests.append(Request(names.run(token), data, condition(names.records(token), 0)))
            requests.append(read(names.tasks, {"last_by_subj": names.task("*", "*", token)}))
        return requests

    def _claim(self, stream: JetStream, run: Run, written: Any, found: Any) -> Claim | Refusal:
        """Return the claim of a new task, or claim a task that is not new.

        :param written: the answer to the record of the run.
        :param found: the answer to the request for the message.
        """
        names, doubtful = self._names, False
        try:
            if isinstance(written, dict):
                stored, record = message_of(found), int(written["seq"])
                if stored is not None and (claim := self._new(stream, stored, record)) is not None:
                    return claim
                stream.delete(names.state, record)
                if stored is None:
                    return Refusal(_GONE)
            elif written.repeated:  # an earlier attempt may have written it, or may write it yet
                doubtful = not runs.withdraw(stream, names, run.token, run.number)
            refusal = Refusal(RefusalKind.BUSY)
            for _ in range(2):
                try:
                    claimed = self._claim_any(stream, run)
                    if isinstance(claimed, Claim):
                        return claimed
                    refusal = claimed
                    break
                except Conflict as conflict:
                    doubtful |= conflict.unsure
        except ApiError as error:
            refusal = self._refusal(error)
        if doubtful:
            runs.give_up(names, run.token, run.number)
        return refusal

    def _new(self, stream: JetStream, stored: Stored, record: int) -> Claim | None:
        """Return the claim of a task that was never run; None if more has to be read before it can be claimed."""
        kind, _, _ = self._names.place(stored.subject)
        facts = stored.facts
        if self._names.passing(stored.subject) or facts.anew or facts.attempts or self._is_early(stored):
            return None
        if kind != NOW and self._tasks.drop_former(stream, stored):
            return None  # the server may have delivered it again just before
        try:
            return self._made(stored, facts, self._envelope(stored), record)
        except Damaged:
            return None

    def _claim_any(self, stream: JetStream, run: Run) -> Claim | Refusal:
        """Read a task, write the record of its run, and check that the task is unchanged.

        Between the read and the write, another worker may have finished the task and deleted its own record.

        :raises Conflict: if another process has just started or changed the task.
        """
        names, token = self._names, run.token
        stored, former = self._tasks.look(stream, token)
        if stored is None or names.passing(stored.subject):
            return Refusal(_GONE)
        if former is not None and not former.is_of(stored) and self._tasks.drop_former(stream, stored):
            raise Conflict  # the record may belong to another, later message of the task
        if former is not None and former.is_of(stored):
            if runs.is_held(stream, names, former):
                return Refusal(RefusalKind.BUSY)
            if former.process != runs.me():  # otherwise this process gave up the claim, so the task never ran
                counted = self._tasks.count_crash(stream, stored, former)
                if counted is None:
                    return Refusal(RefusalKind.BUSY)
                stored = counted
        facts = stored.facts
        if self._is_early(stored):
            self._tasks.drop_former(stream, stored)
            return Refusal(RefusalKind.EARLY, facts.due)
        prefetched = run.prefetched and not facts.alone
        run = run._replace(message=stored.seq, attempts=facts.attempts + 1, prefetched=prefetched)
        record = self._tasks.begin(stream, run, former)
        claim: Claim | None = None
        try:
            # Before the check, because the server could deliver one of them until then.
            self._tasks.drop_former(stream, stored)
            last = stream.last(names.tasks, names.task("*", "*", token))
            if last is None or last.seq != stored.seq:
                raise Conflict
            claim = self._made(stored, facts, self._envelope(stored), record)
            return claim
        except Damaged as error:
            self._tasks.set_aside(stream, stored, facts, Bury(str(error), corrupt=True), record)
            return Refusal(RefusalKind.CORRUPT, None, str(error))
        finally:
            if claim is None:
                stream.tell(deletion(names.state, record))

    def _is_early(self, stored: Stored) -> bool:
        """Return whether a task is not due yet.

        A task sent to run at once is never early, even if its sender's clock is ahead. A task that the server still
        holds back is always early.
        """
        kind, _, _ = self._names.place(stored.subject)
        return kind == LATER or (kind != NOW and stored.facts.due > self._clock())

    def _made(self, stored: Stored, facts: Facts, envelope: Envelope, record: int) -> Claim:
        """Return the claim for a written record."""
        _, _, token = self._names.place(stored.subject)
        id, held = f"{self._place.name}/{token}", Held(stored, facts, record)
        return Claim(id, token, envelope, facts.attempts + 1, facts.crashes, held, facts.unhandled, record)

    def _refusal(self, error: ApiError) -> Refusal:
        kind = RefusalKind.EARLY if error.is_full else RefusalKind.UNUSABLE  # the reserve logs that it is full
        return Refusal(kind, self._clock() + _LOOK_AGAIN, str(error))

    def _isolate(self, stream: JetStream, taken: list[Claim | Refusal]) -> list[Claim | Refusal]:
        """Release all claims but one if that one must be alone."""
        claims = [one for one in taken if isinstance(one, Claim)]
        alone = next((one for one in claims if one.token.facts.alone), None)
        if alone is None or len(claims) == 1:
            return taken
        for claim in claims:
            if claim is not alone:
                stream.delete(self._names.state, claim.fence)
        now = Refusal(RefusalKind.EARLY, self._clock())
        return [one if one is alone or isinstance(one, Refusal) else now for one in taken]
