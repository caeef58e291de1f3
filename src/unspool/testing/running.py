"""Running tasks in this process: a worker for tests."""

import time
from collections.abc import Awaitable
from contextvars import copy_context
from typing import Any, NamedTuple

from .. import codec, dispatch, registry
from ..backends.base import Backend, Clock, Feed
from ..current import running
from ..errors import Damaged, TaskTimeout
from ..message import Claim, Content, End, Outcome, Refusal, RefusalKind, Release, Verdict
from ..results import is_awaitable
from ..retry import MAX_CRASHES
from ..seal import Seal, end_of_damaged, refusal_of_damaged

__all__ = ["Run", "run_all"]


class Run(NamedTuple):
    """How one run of a task ended.

    ``result`` is what the task returned, ``exception`` what it raised; ``error`` is the traceback or reason that a
    history would show.
    """

    id: str
    task: str
    verdict: Verdict
    attempt: int
    result: Any = None
    exception: BaseException | None = None
    error: str = ""


def run_all(backend: Backend, *, clock: Clock = time.time, limit: int = 10_000) -> list[Run]:
    """Run tasks in this process until none is ready, and return how each run ended, in order.

    Tasks that are sent meanwhile are run too. Deferred tasks, such as failed ones, stay. Coroutines are awaited one by
    one. Time limits are not applied, and a task that kills its worker kills the test.

    :param clock: the backend's clock.
    :param limit: the maximum number of runs, for tasks that send themselves forever.
    :raises RuntimeError: if there are more.
    """
    feed, seal = backend.feed(), registry.seal(backend)
    runs: list[Run] = []
    try:
        while (found := _next(backend, feed, seal)) is not None:
            claim, content = found
            if len(runs) == limit:
                backend.exchange([End(claim, Release())], [])
                raise RuntimeError(
                    f"{limit} runs, and there is still more to do; pass a greater limit if that is right"
                )
            run, outcome = _run(backend, claim, content, clock)
            runs.append(run)
            (until,) = backend.exchange([End(claim, outcome.disposition)], []).ended
            feed.done(claim.ref, until)
    finally:
        backend.exchange([], [])
        feed.close()
    return runs


def _next(backend: Backend, feed: Feed, seal: Seal) -> tuple[Claim, Content] | None:
    while True:
        while feed.refresh().more:
            pass
        tickets = feed.take(1)
        if not tickets:
            return None
        ref = tickets[0].ref
        (claim,) = backend.exchange([], [ref]).taken
        if not isinstance(claim, Refusal):
            try:
                return claim, seal.open(claim.envelope, whole=claim.crashes < MAX_CRASHES)
            except Damaged as error:
                (until,) = backend.exchange([end_of_damaged(claim, error)], []).ended
                claim = refusal_of_damaged(error, until)
        if claim.kind is RefusalKind.BUSY:
            feed.recheck([ref])
        else:
            feed.done(ref, claim.until)


def _run(backend: Backend, claim: Claim, content: Content, clock: Clock) -> tuple[Run, Outcome]:
    result: Any = None
    exception: BaseException | None = None
    try:
        call = dispatch.prepare(claim, content, clock())
        if isinstance(call, Outcome):
            outcome = call
        else:
            running.set((claim, codec.task_label(content.vars)))
            try:
                result = call.task.process()
                if is_awaitable(result):
                    result = _awaited(result)
                ending = dispatch.returned(result)
            except (Exception, SystemExit, TaskTimeout) as error:  # noqa: BLE001  whatever a worker takes as failure
                result, exception = None, error
                ending = dispatch.raised(error)
            running.set(None)
            outcome = dispatch.conclude(call.options, claim, ending, clock())
    except BaseException:  # the test is being stopped
        backend.exchange([End(claim, Release())], [])
        raise
    return Run(
        claim.id, codec.task_label(content.vars), outcome.verdict, claim.attempts, result, exception, outcome.error
    ), outcome


def _awaited(awaitable: Awaitable[Any]) -> Any:
    """Return the result from an event loop in a separate thread, as in a worker, because the test may run a loop
    itself."""
    import asyncio  # takes 30 ms in every pytest run, and only coroutines need it
    from concurrent.futures import ThreadPoolExecutor

    async def wait() -> Any:
        return await awaitable

    with ThreadPoolExecutor(1) as thread:
        return thread.submit(copy_context().run, asyncio.run, wait()).result()
