"""The event loop on which a worker runs ``async def`` tasks, in a thread of its own, many at once."""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any

from ..errors import TaskTimeout

__all__ = ["EventLoop"]

Done = Callable[[Any, BaseException | None], None]


class EventLoop:
    """Runs coroutines; the main thread goes on with other tasks meanwhile.

    :param concurrency: how many run at once; ``wait_for_room`` keeps the number.
    """

    def __init__(self, concurrency: int) -> None:
        self._room = threading.Semaphore(concurrency)
        self._concurrency = concurrency
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="unspool-async", daemon=True)
        self._thread.start()

    def start(self, coroutine: Coroutine[Any, Any, Any], timeout: float | None, done: Done) -> None:
        """Runs a coroutine and calls ``done`` with its result or exception, in the loop's thread.

        :param timeout: seconds it may take, or None.
        """
        self._room.acquire()
        self._loop.call_soon_threadsafe(self._begin, coroutine, timeout, done)

    def wait_for_room(self) -> None:
        """Waits until one more may be started."""
        self._room.acquire()
        self._room.release()

    def drain(self) -> None:
        """Waits until all have ended."""
        for _ in range(self._concurrency):
            self._room.acquire()
        self._room.release(self._concurrency)

    def finish(self) -> None:
        """Waits until all have ended, then ends the loop."""
        self.drain()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _begin(self, coroutine: Coroutine[Any, Any, Any], timeout: float | None, done: Done) -> None:
        task = self._loop.create_task(self._run(coroutine, timeout, done))
        self._tasks.add(task)  # the loop itself holds tasks only weakly
        task.add_done_callback(self._tasks.discard)

    async def _run(self, coroutine: Coroutine[Any, Any, Any], timeout: float | None, done: Done) -> None:
        try:
            try:
                async with asyncio.timeout(timeout) as limit:
                    result = await coroutine
            except TimeoutError as error:
                done(None, TaskTimeout(f"it ran longer than {timeout:g} s") if limit.expired() else error)
            except BaseException as error:  # noqa: BLE001  a task may raise anything, and each kind is its failure
                done(None, error)
            else:
                done(result, None)
        finally:
            self._room.release()
