"""The event loop of a worker, which runs many ``async def`` tasks at once in a separate thread.

Two threads that both make system calls take the interpreter from each other at each call, which costs more than the
calls. So neither thread wakes the other for each task. New coroutines are collected for the loop, and ended ones for
the main thread, which settles them. While the main thread waits or runs another task, the loop's thread settles them.

A task may end the loop, because asyncio does not catch SystemExit and KeyboardInterrupt, also from a callback or an
asyncio task that it has started. The loop then continues with all other coroutines, and the run that caused this fails.
"""

import contextlib
import logging
import sys
import threading
from collections import deque
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from types import CoroutineType, TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple

from .. import dispatch, failure
from ..current import running
from ..dispatch import Ending
from ..errors import TaskTimeout
from ..imports import late
from ..message import Claim, Verdict
from . import connections

if TYPE_CHECKING:
    import asyncio  # 30 ms of a worker's start, and 3 MB, that only coroutines need

__all__ = ["EventLoop"]

Done = Callable[[Ending], None]

_log = logging.getLogger("unspool")
_GATHER = 0.001  # seconds in which coroutines are collected, after the first
_cause: ContextVar[Done | None] = ContextVar("unspool run", default=None)
"""The run to which a callback or an asyncio task belongs. Both inherit the context of the code that started them."""


class _Run(NamedTuple):
    coroutine: Awaitable[Any]
    timeout: float | None
    done: Done
    over: Callable[[], object] | None
    task: tuple[Claim, str] | None


class EventLoop:
    """Runs coroutines while the main thread continues with other tasks. The thread is started for the first coroutine.

    :param wake: wakes the main thread. Called when enough coroutines have ended (see ``expect``).
    :param lost: called in the loop's thread when the loop cannot continue. It must not return.
    """

    def __init__(self, wake: Callable[[], None], lost: Callable[[], None]) -> None:
        self._wake = wake
        self._lost = lost
        self._lock = threading.Lock()
        self._fresh: list[_Run] = []
        self._looking = False  # whether the loop will start these without being woken
        self._ended: deque[tuple[Done, Ending]] = deque()
        self._runs: dict[Done, asyncio.Task[None] | None] = {}  # the loop itself has only weak references to tasks
        self._begun: list[tuple[_Run, asyncio.Task[None]]] = []  # started by the last ``_look``
        self._failed: dict[Done, Ending] = {}  # the runs that have ended the loop
        self._closing = False
        self._away = False
        self._expected = -1
        self._thread: threading.Thread | None = None
        self.used = False
        """Whether there was a coroutine. If not, a worker skips all calls of the loop, which take 10 µs per task."""

    def __len__(self) -> int:
        """Return the number of coroutines that run, or have ended and are not settled yet."""
        return len(self._runs)

    def start(
        self,
        coroutine: Awaitable[Any],
        timeout: float | None,
        done: Done,
        over: Callable[[], object] | None = None,
        task: tuple[Claim, str] | None = None,
    ) -> None:
        """Run a coroutine, then call ``done`` with its ending, which settles it in either thread.

        :param timeout: the time limit in seconds, or None.
        :param over: called in the loop's thread as soon as the run has ended. The main thread may call ``done`` much
            later, if it waits for a server.
        :param task: what ``unspool.current()`` returns in the coroutine.
        """
        if self._thread is None:
            self.used = True
            with late:
                import asyncio
            self._loop = asyncio.new_event_loop()
            with contextlib.suppress(AttributeError):  # another library's loop may not allow new attributes
                self._loop.stop = _refuse_to_stop  # type: ignore[method-assign]
            self._thread = threading.Thread(target=self._serve, name="unspool-async", daemon=True)
            self._thread.start()
        self._runs[done] = None
        with self._lock:
            self._fresh.append(_Run(coroutine, timeout, done, over, task))
            asleep, self._looking = not self._looking, True
        if asleep:
            self._loop.call_soon_threadsafe(self._look)

    def settle(self) -> bool:
        """Settle the ended runs, in the main thread. Return False if there are none."""
        found = bool(self._ended)
        while self._ended:
            self._settle_one()
        return found

    def leave(self) -> bool:
        """Settle the ended runs, and let the loop's thread settle later ones. Return False if there were none."""
        self._away = True
        return self.settle()

    def come_back(self) -> None:
        """Let the main thread settle again."""
        self._away, self._expected = False, -1

    def expect(self, most: int) -> bool:
        """Return whether at most ``most`` coroutines are left. If not, wake the main thread when that is the case."""
        self._expected = most
        return len(self._runs) <= most

    def close(self) -> None:
        """Close the loop, in which no coroutine may be left."""
        if self._thread is not None:
            self._closing = True
            self._loop.call_soon_threadsafe(type(self._loop).stop, self._loop)
            self._thread.join()
            self._loop.close()

    def _serve(self) -> None:
        """Run the loop in its thread, and again whenever a task has ended it."""
        while not self._closing:
            try:
                self._loop.run_forever()
            except (SystemExit, KeyboardInterrupt) as error:
                self._blame(error)
            except BaseException as error:  # noqa: BLE001  as when a task has closed the loop's descriptors
                _log.error("a worker's event loop cannot continue: %s", failure.reason(error))
                self._lost()
            else:
                if not self._closing:
                    _log.error("a task stopped its worker's event loop; the loop continues")

    def _blame(self, error: BaseException) -> None:
        """Fail the run that has ended the loop, if it is known and still running."""
        _log.error("a task ended its worker's event loop by %s; the loop continues", failure.reason(error))
        done = _cause_of(sys.exc_info()[2])
        run = self._runs.get(done) if done is not None else None
        if done is not None and run is not None and not run.done():
            self._failed[done] = dispatch.raised(error)
            run.cancel()

    def _look(self) -> None:
        with self._lock:
            fresh, self._fresh = self._fresh, []
            self._looking = bool(fresh)
        for run, task in self._begun:
            if task.cancelled():  # cancelled by another task before its first step, so ``_run`` has not begun
                if type(run.coroutine) is CoroutineType:
                    run.coroutine.close()
                self._end(run.done, run.over, Ending(Verdict.RESCHEDULED, "it was cancelled before it began"))
        self._begun = []
        for run in fresh:
            task = self._loop.create_task(self._run(*run))
            self._runs[run.done] = task
            self._begun.append((run, task))
        if fresh:
            self._loop.call_later(_GATHER, self._look)

    async def _run(
        self,
        coroutine: Awaitable[Any],
        timeout: float | None,
        done: Done,
        over: Callable[[], object] | None,
        task: tuple[Claim, str] | None,
    ) -> None:
        import asyncio

        _cause.set(done)
        running.set(task)
        connections.close_old_of_coroutines(others=len(self._runs) > 1)
        limit = None
        try:  # includes the deletion of the result and its objects
            if timeout is None:
                ending = dispatch.returned(await coroutine)
            else:
                async with asyncio.timeout(timeout) as limit:
                    ending = dispatch.returned(await coroutine)
        except TimeoutError as error:
            overran = limit is not None and limit.expired()
            ending = dispatch.raised(TaskTimeout(f"it ran longer than {timeout:g} s") if overran else error)
        except BaseException as error:  # noqa: BLE001  a task may raise anything, and each kind is its failure
            ending = dispatch.raised(error)
        del coroutine
        connections.close_old_of_coroutines(others=len(self._runs) > 1)
        self._end(done, over, self._failed.pop(done, ending) if self._failed else ending)

    def _end(self, done: Done, over: Callable[[], object] | None, ending: Ending) -> None:
        if over is not None:
            over()
        self._ended.append((done, ending))
        if self._away and len(self._ended) == 1:
            self._loop.call_soon(self._stand_in)

    def _stand_in(self) -> None:
        """Settle ended runs while the main thread is away. It settles the rest when it is back."""
        try:
            while self._ended and self._away:
                self._settle_one()
        finally:
            if self._ended and self._away:
                self._loop.call_soon(self._stand_in)
            if len(self._runs) <= self._expected:
                self._wake()

    def _settle_one(self) -> None:
        try:
            done, ending = self._ended.popleft()
        except IndexError:  # the other thread was faster
            return
        try:
            done(ending)
        finally:
            del self._runs[done]


def _refuse_to_stop() -> None:
    """Replace the loop's ``stop`` for tasks."""
    raise RuntimeError("a task cannot stop the event loop of its worker: other tasks run on it")


def _cause_of(frames: TracebackType | None) -> Done | None:
    """Return the run of the callback in these frames; None if it is unknown."""
    import asyncio

    while frames is not None:
        handle: Any = frames.tb_frame.f_locals.get("self")
        if type(handle) in (asyncio.Handle, asyncio.TimerHandle):
            cause: Done | None = handle._context.get(_cause)
            return cause
        frames = frames.tb_next
    return None
