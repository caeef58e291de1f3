"""Running tasks inside uWSGI: the handler that its spooler processes call.

Before each call, uWSGI has found, locked and read a file: a task or the wakefile. The handler releases uWSGI's lock.
Then it claims, runs and settles the due tasks in their order, as a worker does. A claim has a lock of unspool's own. It
does not end when other code in this process opens and closes the file, as uWSGI's lock does.

The handler returns *again*. uWSGI then does nothing to the file, even if it is gone. After *done*, uWSGI would remove
the file. After *not mine*, it would offer the file again at every scan.
"""

import contextlib
import contextvars
import errno
import logging
import math
import os
import signal
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import TYPE_CHECKING, Any

from .. import codec, dispatch, forks
from ..backends.base import Clock
from ..backends.registration import Registration
from ..current import running
from ..errors import ConfigurationError, Damaged, NoHandler, SpoolerUnusable
from ..functions import find_function
from ..inspection import runs
from ..message import (
    Ack,
    Claim,
    Content,
    Disposition,
    End,
    Outcome,
    Record,
    Refusal,
    RefusalKind,
    Release,
    Retry,
    Verdict,
)
from ..printable import printable
from ..retry import MAX_CRASHES
from ..seal import Seal, end_of_damaged, lack_of_memory, refusal_of_damaged
from ..tasks import spooler_task_types
from . import connections
from .log import log_end
from .timelimit import limit

if TYPE_CHECKING:
    import asyncio

    from ..backends.spool.uwsgi.backend import UwsgiBackend

__all__ = ["Handler", "SpoolerHandler"]

DONE, AGAIN = -2, -1  # uwsgi.SPOOL_OK, uwsgi.SPOOL_RETRY
Handler = Callable[[dict[Any, Any]], Any]

_log = logging.getLogger("unspool")
_MOST_MESSAGES = 10_000
_NEXT_SCAN = 1.0  # seconds until the program's own handler gets a task again that it has not finished
_WAKE_UP = (signal.SIGUSR1,)


class SpoolerHandler:
    """The handler that uWSGI calls with each task, as ``uwsgi.spooler``.

    :param insides: returns the backends of this uWSGI's spoolers.
    :param seal: returns the seal of a backend.
    """

    def __init__(
        self,
        insides: Callable[[], list["UwsgiBackend"]],
        seal: Callable[["UwsgiBackend"], Seal],
        clock: Clock = time.time,
    ) -> None:
        self._insides = insides
        self._seal = seal
        self._clock = clock
        self._former: Handler | None = None
        self._logged: set[str] = set()
        self._coroutines = _Coroutines()

    def keep(self, former: Handler) -> None:
        """Keep the program's own handler. It gets the messages that are not unspool's."""
        self._former = former
        _log.warning("uwsgi.spooler is unspool's; %r gets the messages that are not unspool's", former)

    def __call__(self, variables: dict[Any, Any]) -> Any:
        forks.check()
        name = os.fsdecode(variables["spooler_task_name"])  # bytes, as are all values
        try:
            insides = self._insides()
        except ConfigurationError as error:
            self.log_once(f"no task is run: {error}")
            return AGAIN
        for inside in insides:
            ref = inside.ref(name)
            if ref is not None:
                try:
                    with _wake_ups_merged():
                        return self._handle(inside, ref)
                except SpoolerUnusable as error:
                    self.log_once(str(error))
                    return AGAIN
        _log.error("task %s is in none of this uWSGI's spoolers; it is left alone", printable(name))
        return AGAIN

    def _handle(self, inside: "UwsgiBackend", ref: str) -> int:
        """Run the due tasks in their order, or only the first one if uWSGI runs one task a call.

        The offered task is tried at the end if the listing of due tasks does not contain it.
        """
        inside.let_go(ref)
        registration: Registration | None = None  # made for the first run; not needed without one
        woken = False
        tasks = self._upcoming(inside, ref)
        while not inside.paused and (upcoming := next(tasks, None)) is not None:
            claim = self._claim(inside, upcoming, patient=upcoming == ref)
            if isinstance(claim, Refusal):
                self._refused(inside, upcoming, claim)
                continue
            if not woken and inside.more:  # uWSGI's lock may have hidden them from its other processes
                inside.wake()
                woken = True
            registration = registration or inside.registration
            registration.running(upcoming, self._clock())
            self._run(inside, claim)
            if inside.one_a_call:
                break
        if registration is not None:
            registration.running("", 0.0)
        inside.exchange((), ())
        return AGAIN

    @staticmethod
    def _upcoming(inside: "UwsgiBackend", ref: str) -> Iterator[str]:
        offered = not inside.is_bell(ref)
        for upcoming in inside.upcoming(ref):
            offered &= upcoming != ref
            yield upcoming
        if offered:
            yield ref

    def _claim(self, inside: "UwsgiBackend", ref: str, *, patient: bool) -> Claim | Refusal:
        (claim,) = inside.exchange((), (ref,)).taken
        if patient and isinstance(claim, Refusal) and claim.kind is RefusalKind.EARLY and claim.until is not None:
            wait = claim.until - self._clock()
            if wait < 1.0:  # uWSGI compares whole seconds, so it may be early by less than one
                time.sleep(max(0.0, wait))
                (claim,) = inside.exchange((), (ref,)).taken
        return claim

    def log_once(self, text: str) -> None:
        """Log an error, but only the first time. uWSGI offers the same task repeatedly."""
        if text not in self._logged and len(self._logged) < _MOST_MESSAGES:
            self._logged.add(text)
            _log.error("%s", printable(text))

    def _refused(self, inside: "UwsgiBackend", ref: str, refusal: Refusal) -> None:
        if refusal.kind is RefusalKind.CORRUPT:
            error = refusal.detail
            record = Record(self._id(inside, ref), "?", Verdict.CORRUPT, 0, self._clock(), 0.0, os.getpid(), error)
            self._note(inside, record, None)
        elif refusal.kind is RefusalKind.UNUSABLE and refusal.detail not in self._logged:
            self.log_once(f"task {self._id(inside, ref)} is not run: {refusal.detail}")
        if refusal.kind not in (RefusalKind.CORRUPT, RefusalKind.GONE):
            inside.later(ref, refusal.until)

    def _run(self, inside: "UwsgiBackend", claim: Claim) -> None:
        try:
            content = self._seal(inside).open(claim.envelope, whole=claim.crashes < MAX_CRASHES)
        except Damaged as error:
            (until,) = inside.exchange((end_of_damaged(claim, error),), ()).ended
            self._refused(inside, claim.ref, refusal_of_damaged(error, until))
            return
        except MemoryError:
            inside.exchange((End(claim, Release(crashed=True)),), ())
            raise SpoolerUnusable(errno.ENOMEM, lack_of_memory(claim)) from None
        if self._former is not None and claim.crashes < MAX_CRASHES and not _is_ours(content):
            self._call_former(self._former, inside, claim, content)
            return
        started = self._clock()
        label = codec.task_label(content.vars)
        if claim.crashes:
            self._record_crash(inside, claim, label)
        outcome = self._perform(claim, label, dispatch.prepare(claim, content, started))
        disposition = outcome.disposition
        if isinstance(disposition, Retry):  # uWSGI compares whole seconds, and would offer it early
            disposition = disposition._replace(at=math.ceil(disposition.at))
        (until,) = inside.exchange((End(claim, disposition),), ()).ended
        duration = max(self._clock() - started, 0.0)
        record = Record(
            claim.id,
            label,
            outcome.verdict,
            claim.attempts - (not outcome.begun),
            started,
            duration,
            os.getpid(),
            outcome.error,
        )
        self._note(inside, record, until)
        connections.close_old()

    def _call_former(self, former: Handler, inside: "UwsgiBackend", claim: Claim, content: Content) -> None:
        """Call the program's own handler with a task, by uWSGI's rules.

        The variables are read from the claimed file. Those that uWSGI has read were neither locked by unspool nor
        verified.
        """
        vars, body = content.vars, content.body
        given: dict[Any, Any] = {os.fsencode(key): value for key, value in vars.items()}
        given["spooler_task_name"] = os.fsencode(os.path.basename(claim.id))
        if body:
            given["body"] = body
        disposition: Disposition = Release()
        self._former = None  # it may call this handler, which it found installed; that call must not recurse
        try:
            if former(given) == DONE:
                disposition = Ack()
        finally:
            self._former = former
            inside.exchange((End(claim, disposition),), ())
            inside.later(claim.ref, self._clock() + _NEXT_SCAN)

    def _record_crash(self, inside: "UwsgiBackend", claim: Claim, label: str) -> None:
        """Record the crash of the previous run, unless the supervisor of ``unspool run`` has recorded it."""
        attempt = claim.attempts - 1
        if all(record.attempt != attempt for record in runs(inside, claim.id)):
            error = "its process ended while it ran: it crashed, overran uWSGI's time limit, or uWSGI was stopped"
            self._note(inside, Record(claim.id, label, Verdict.CRASHED, attempt, self._clock(), 0.0, 0, error), None)

    def _perform(self, claim: Claim, label: str, call: dispatch.Call | Outcome) -> Outcome:
        """Run a task, await its coroutine and delete its objects. Return the outcome."""
        if isinstance(call, Outcome):
            return call
        options = call.options
        connections.close_old()
        running.set((claim, label))
        try:
            with contextlib.nullcontext() if options.timeout is None else limit(options.timeout):
                try:
                    ended = dispatch.run(call)
                finally:
                    del call
                if isinstance(ended, dispatch.Unfinished):
                    ended = self._coroutines.run(ended.coroutine)
        except BaseException as error:  # noqa: BLE001  whatever a task raises, sys.exit() included, is its failure
            ended = dispatch.raised(error)
        running.set(None)
        return dispatch.conclude(options, claim, ended, self._clock())

    def _note(self, inside: "UwsgiBackend", record: Record, until: float | None) -> None:
        log_end(inside.name, record, until)
        try:
            inside.record([record])
        except Exception as error:  # noqa: BLE001  whatever a database may raise costs history, and nothing else
            _log.warning("history of %s cannot be written: %s; tasks continue", inside.name, error)

    @staticmethod
    def _id(inside: "UwsgiBackend", ref: str) -> str:
        return f"{inside.name}/{ref}"


class _Coroutines:
    """Runs coroutines one after another, all on one event loop of the process.

    A connection pool belongs to an event loop, so later coroutines can use the pool of earlier ones.
    """

    def __init__(self) -> None:
        self._runner: asyncio.Runner | None = None
        self._inherited: list[asyncio.Runner | None] = []  # never closed, because their kernel objects are the parent's
        forks.register(after_in_child=self._begin_in_child)

    def _begin_in_child(self) -> None:
        self._inherited.append(self._runner)
        self._runner = None

    def run(self, coroutine: Awaitable[Any]) -> dispatch.Ending:
        """Await a coroutine.

        :raises BaseException: if the loop itself was stopped or interrupted, for example by a time limit. The next
            coroutine gets a new loop.
        """
        import asyncio  # 3 MB in each of uWSGI's processes, needed for coroutines only
        from concurrent.futures import ThreadPoolExecutor

        runner = self._runner = self._runner or asyncio.Runner()
        try:
            return runner.run(_awaited(coroutine), context=contextvars.copy_context())
        except BaseException:
            self._runner = None
            # ``close`` waits for the threads of the executor, which no time limit interrupts.
            runner.get_loop().set_default_executor(ThreadPoolExecutor(1))
            runner.close()  # this also ends what is left of the coroutine
            raise


async def _awaited(coroutine: Awaitable[Any]) -> dispatch.Ending:
    connections.close_old_of_coroutines(others=False)
    try:
        ending = dispatch.returned(await coroutine)
    except BaseException as error:  # noqa: BLE001  whatever it raises is its failure
        ending = dispatch.raised(error)
    connections.close_old_of_coroutines(others=False)
    return ending


def _is_ours(content: Content) -> bool:
    """Return whether this program runs the message by unspool, and not by its own ``uwsgi.spooler``."""
    if codec.is_bare(content):
        return codec.BARE in spooler_task_types
    if "ud_spool_func" in content.vars and not content.sealed:
        try:
            find_function(content.vars["ud_spool_func"].decode("utf-8", "replace"))
        except NoHandler:
            return False
    return True


@contextlib.contextmanager
def _wake_ups_merged() -> Iterator[None]:
    """Delay all wake-ups until the end, where they become one.

    uWSGI counts wake-ups and reads the directory once for each. A wake-up would also interrupt a system call of a task.
    """
    former = signal.pthread_sigmask(signal.SIG_BLOCK, _WAKE_UP)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, former)


forks.register(after_in_child=lambda: signal.pthread_sigmask(signal.SIG_UNBLOCK, _WAKE_UP))
