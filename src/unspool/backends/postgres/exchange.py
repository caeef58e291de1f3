"""The claims of a process and the ends of its runs.

A call settles runs and claims tasks by one transaction in one round trip. Each claim has a random number, the fence,
and a lock in the session. The server settles a run only under the fence of its claim. If the answer to a call is lost,
the next call withdraws the claims that the server may have made.
"""

import contextlib
import logging
import os
import threading
from collections.abc import Callable, Collection, Sequence

from ... import forks
from ...errors import Damaged, SpoolerUnusable
from ...message import Ack, Claim, End, Exchanged, Refusal, RefusalKind, Release, Retry
from .arrays import array
from .content import Content, Row
from .history import History, storable
from .names import Names
from .registrations import Registrations
from .session import CLAIMS, Session
from .settlement import Return, acknowledge, return_of, return_tasks
from .sqlstate import Transient

__all__ = ["Exchange"]

_log = logging.getLogger("unspool")
_AWAY = 0.5  # seconds until a task is tried again that the server could not return
_CLAIMS = b"%d" % CLAIMS


class Exchange:
    """Implements ``Backend.exchange``.

    :param now: returns the time for statements; None for the server's clock.
    :param local: returns the time of this program's clock.
    """

    def __init__(
        self,
        session: Session,
        names: Names,
        history: History,
        registrations: Registrations,
        content: Content,
        now: Callable[[], float | None],
        local: Callable[[], float],
    ) -> None:
        self._session = session
        self._names = names
        self._history = history
        self._registrations = registrations
        self._content = content
        self._now = now
        self._local = local
        self._begin()
        forks.register(after_in_child=self._begin)

    def _begin(self) -> None:
        """Reset the state of the process."""
        self._lock = threading.Lock()
        self._doubtful: set[int] = set()  # tasks that the server may have claimed for this process in vain

    def exchange(self, ends: Sequence[End], refs: Sequence[str]) -> Exchanged:
        """Settle runs and claim tasks.

        :raises Transient, SpoolerUnusable: as ``Backend.exchange``.
        """
        if not ends and not refs:
            return Exchanged([], [])
        now = self._local()
        numbers = [self._names.number(ref) for ref in refs]
        acks: list[End] = []
        returns: list[Return] = []
        for end in ends:
            one = return_of(end, now)
            acks.append(end) if one is None else returns.append(one)
        with self._lock:
            held = self._session.tasks.keys() - {int(end.claim.ref) for end in ends}
            asked = [number for number in dict.fromkeys(numbers) if number is not None and number not in held]
            settled, rows = self._call(acks, returns, asked)
            self._let_go([end for end in ends if int(end.claim.ref) not in settled])
            try:
                taken = self._taken(refs, numbers, asked, rows)
            except BaseException:
                with contextlib.suppress(SpoolerUnusable):  # then the next call withdraws them
                    self._withdraw(rows)
                raise
        return Exchanged([_until(end, now) for end in ends], taken)

    def _call(
        self, acks: Sequence[End], returns: Sequence[Return], asked: Sequence[int]
    ) -> tuple[set[int], dict[int, Row]]:
        """Settle runs and claim tasks by one transaction. Return the settled tasks, and the claims."""
        tasks, claims = self._session.tasks, self._registrations.claims
        for number in asked:
            claims.add(number)  # before they are claimed, so that the supervisor knows each task that may start
        doubtful = self._doubtful
        try:
            answers = self._session.pipeline(self._statements(doubtful, acks, returns, asked))
        except BaseException:
            self._doubtful = doubtful.union(asked)
            for number in asked:
                if number not in tasks:
                    claims.discard(number)
            raise
        self._doubtful = set()
        rows = {row.number: row for row in map(Row.of, answers.pop())} if asked else {}
        settled = {int.from_bytes(row[0] or b"") for answer in answers[bool(doubtful) :] for row in answer}
        for number in settled:
            tasks.pop(number, None)
        for number, row in rows.items():
            tasks[number] = CLAIMS + row.fence
        for number in {*settled, *asked} - rows.keys():
            claims.discard(number)
        return settled, rows

    def _statements(
        self, doubtful: Collection[int], acks: Sequence[End], returns: Sequence[Return], asked: Sequence[int]
    ) -> list[tuple[str, list[bytes | None]]]:
        clock, spooler, owner = self._now(), self._names.spooler.encode(), self._session.owner
        time = None if clock is None else repr(clock).encode()
        worker = b"%d" % self._session.worker_key() if doubtful or asked else b""
        statements: list[tuple[str, list[bytes | None]]] = []
        if doubtful:
            statements.append(("withdraw", [_CLAIMS, array(doubtful), worker]))
        if acks:
            statements.append(("acknowledge", [_CLAIMS, spooler, *acknowledge(acks, self._history)]))
        if returns:
            values = return_tasks(returns, self._history)
            statements.append(("return", [time, _CLAIMS, spooler, self._names.channel.encode(), *values]))
        if asked:
            several = b"1" if len(asked) > 1 else b"0"
            values = [array(asked), spooler, worker, None if owner is None else b"%d" % owner, several]
            statements.append(("claim", [time, _CLAIMS, *values]))
        return statements

    def _let_go(self, lost: Sequence[End]) -> None:
        """Forget claims that were lost before their runs ended. Log them, unless an earlier call has settled them."""
        if not lost:
            return
        numbers = [int(end.claim.ref) for end in lost]
        for number, end in zip(numbers, lost, strict=True):
            if self._session.tasks.get(number) == CLAIMS + end.claim.fence:
                del self._session.tasks[number]
                self._registrations.claims.discard(number)
        values = {"ids": numbers, "fences": [end.claim.fence for end in lost], "claims": CLAIMS}
        left: set[int] = set()
        with contextlib.suppress(SpoolerUnusable):  # no process waits for the locks of lost claims
            left = {number for number, _ in self._session.rows("unlock", values)}
        for number, end in zip(numbers, lost, strict=True):
            if not end.repeated or (isinstance(end.disposition, Ack) and number in left):
                text = "task %s has ended here, but its claim was lost meanwhile, so its end is ignored"
                _log.error(text, end.claim.id)

    def _withdraw(self, rows: dict[int, Row]) -> None:
        """Withdraw claims whose runs have not started, and remove them from ``rows``."""
        if not rows:
            return
        for number in rows:
            self._session.tasks.pop(number, None)
            self._registrations.claims.discard(number)
        self._doubtful = self._doubtful.union(rows)
        rows.clear()
        self._call((), (), ())

    def _withdraw_unlocked(self, rows: dict[int, Row]) -> set[int]:
        """Withdraw claims whose lock another session has, because it has drawn the same fence. Return their tasks."""
        unlocked = {number: rows.pop(number) for number, row in list(rows.items()) if not row.locked}
        numbers = set(unlocked)
        self._withdraw(unlocked)
        return numbers

    # --- claims

    def _taken(
        self, refs: Sequence[str], numbers: Sequence[int | None], asked: Collection[int], rows: dict[int, Row]
    ) -> list[Claim | Refusal]:
        """Return a claim or a refusal for each ref. What remains in ``rows`` has not been returned."""
        unlocked = self._withdraw_unlocked(rows)
        refusals, alone = self._refusals([number for number in asked if number not in rows and number not in unlocked])
        if alone:  # the others wait for it, because the end of a worker must not concern two of them
            refusals |= dict.fromkeys([*alone, *rows], Refusal(RefusalKind.EARLY, self._local()))
            self._withdraw(rows)
            rows |= self._call((), (), alone[:1])[1]
            self._withdraw_unlocked(rows)
        taken: list[Claim | Refusal] = []
        for ref, number in zip(refs, numbers, strict=True):
            if number is None:
                taken.append(Refusal(RefusalKind.GONE))
            elif number in rows:
                taken.append(self._read(ref, rows[number]))
            else:
                taken.append(refusals.get(number, Refusal(RefusalKind.BUSY)))
        rows.clear()
        return taken

    def _refusals(self, numbers: Sequence[int]) -> tuple[dict[int, Refusal], list[int]]:
        """Return why tasks could not be claimed, and those that must be claimed alone."""
        if not numbers:
            return {}, []
        values = {"ids": list(numbers), "spooler": self._names.spooler, "clock": self._now()}
        found = dict.fromkeys(numbers, Refusal(RefusalKind.GONE))
        alone = []
        for number, state, begun, due, isolated, now in self._session.rows("refusals", values):
            if state >= 2:
                continue
            if not begun and due > now:
                found[number] = Refusal(RefusalKind.EARLY, self._local() + due - now)
            else:
                found[number] = Refusal(RefusalKind.BUSY)
                if isolated and not begun:
                    alone.append(number)
        return found, alone

    def _read(self, ref: str, row: Row) -> Claim | Refusal:
        """Return the claim of a row, or a refusal if its content cannot be used.

        :raises SpoolerUnusable: if this process does not have enough memory. This counts as a crash, like a kill for
            lack of memory. A new worker may have more memory.
        """
        number, fence = row.number, row.fence
        try:
            return self._content.claim(ref, row)
        except Damaged as error:
            self._call((), [Return(number, fence, aside=3, attempts=-1, reason=storable(str(error)))], ())
            return Refusal(RefusalKind.CORRUPT, None, str(error))
        except (MemoryError, Transient) as error:
            crashed = isinstance(error, MemoryError) or "out of memory" in str(error)
            self._call((), [Return(number, fence, attempts=crashed - 1, crashes=int(crashed))], ())
            if crashed:
                id = self._names.id(number)
                raise SpoolerUnusable(f"task {id} does not fit into the memory of process {os.getpid()}") from None
            return Refusal(RefusalKind.UNUSABLE, self._local() + _AWAY, str(error))


def _until(end: End, now: float) -> float | None:
    match end.disposition:
        case Retry(at):
            return at
        case Release():
            return now
    return None
