"""The event loop on which a worker runs ``async def`` tasks, in a thread of its own, many at once.

Two threads that both make system calls take the interpreter from one another at each of them, which costs more than the
calls. So neither wakes the other for each task: what begins is gathered for the loop, and what has ended for the main
thread, which settles it in its turn. While that is away, asleep or in another task, the loop's thread settles.
"""

import threading
from collections import deque
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from ..errors import TaskTimeout
from ..imports import late

if TYPE_CHECKING:
    import asyncio  # 30 ms of a worker's start, and 3 MB, that only coroutines need

__all__ = ["EventLoop"]

Done = Callable[[Any, BaseException | None], None]

_GATHER = 0.001  # seconds in which coroutines are gathered, after the first


class EventLoop:
    """Runs coroutines; the main thread goes on with other tasks meanwhile. The thread is started for the first.

    :param wake: wakes the main thread; called when enough have ended, see ``expect``.
    """

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._lock = threading.Lock()
        self._fresh: list[tuple[Coroutine[Any, Any, Any], float | None, Done]] = []
        self._looking = False  # whether the loop will look at these by itself
        self._ended: deque[tuple[Done, Any, BaseException | None]] = deque()
        self._runs: dict[Done, asyncio.Task[None] | None] = {}  # the loop itself holds tasks only weakly
        self._away = False
        self._expected = -1
        self._thread: threading.Thread | None = None
        self.used = False
        """Whether there was a coroutine. If not, a worker need not ask any of this at each task, which takes 10 µs."""

    def __len__(self) -> int:
        """How many run, or have ended and are not settled yet."""
        return len(self._runs)

    def start(self, coroutine: Coroutine[Any, Any, Any], timeout: float | None, done: Done) -> None:
        """Runs a coroutine; then ``done`` is called with its result or exception, to settle it, in either thread.

        :param timeout: seconds it may take, or None.
        """
        if self._thread is None:
            self.used = True
            with late:
                import asyncio
            self._loop = asyncio.new_event_loop()
            self._thread = threading.Thread(target=self._loop.run_forever, name="unspool-async", daemon=True)
            self._thread.start()
        self._runs[done] = None
        with self._lock:
            self._fresh.append((coroutine, timeout, done))
            asleep, self._looking = not self._looking, True
        if asleep:
            self._loop.call_soon_threadsafe(self._look)

    def settle(self) -> bool:
        """In the main thread: settles those that have ended. False if there were none."""
        found = bool(self._ended)
        while self._ended:
            self._settle_one()
        return found

    def leave(self) -> bool:
        """The main thread goes away: from now on the loop's thread settles. What ended before is settled here; False if
        there was nothing."""
        self._away = True
        return self.settle()

    def come_back(self) -> None:
        """The main thread is there again."""
        self._away, self._expected = False, -1

    def expect(self, most: int) -> bool:
        """Whether no more than ``most`` are left; if not, the main thread, which goes away now, is woken then."""
        self._expected = most
        return len(self._runs) <= most

    def close(self) -> None:
        """Ends the loop; nothing may be left."""
        if self._thread is not None:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    def _look(self) -> None:
        with self._lock:
            fresh, self._fresh = self._fresh, []
            self._looking = bool(fresh)
        for coroutine, timeout, done in fresh:
            self._runs[done] = self._loop.create_task(self._run(coroutine, timeout, done))
        if fresh:
            self._loop.call_later(_GATHER, self._look)

    async def _run(self, coroutine: Coroutine[Any, Any, Any], timeout: float | None, done: Done) -> None:
        import asyncio

        limit = None
        try:
            if timeout is None:
                result = await coroutine
            else:
                async with asyncio.timeout(timeout) as limit:
                    result = await coroutine
        except TimeoutError as error:
            overran = limit is not None and limit.expired()
            self._end(done, None, TaskTimeout(f"it ran longer than {timeout:g} s") if overran else error)
        except BaseException as error:  # noqa: BLE001  a task may raise anything, and each kind is its failure
            self._end(done, None, error)
        else:
            self._end(done, result, None)

    def _end(self, done: Done, result: Any, exception: BaseException | None) -> None:
        self._ended.append((done, result, exception))
        if self._away and len(self._ended) == 1:
            self._loop.call_soon(self._stand_in)

    def _stand_in(self) -> None:
        """Settles while the main thread is away: what it leaves, that one finds when it is back."""
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
            done, result, exception = self._ended.popleft()
        except IndexError:  # the other thread was faster
            return
        try:
            done(result, exception)
        finally:
            del self._runs[done]
