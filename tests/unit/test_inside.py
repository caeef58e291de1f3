"""Coroutines inside uWSGI."""

import asyncio
import threading

import pytest

from unspool.errors import TaskTimeout
from unspool.runtime.inside import _Coroutines
from unspool.runtime.timelimit import limit


def test_a_time_limit_does_not_wait_for_threads() -> None:
    """A coroutine that waits for a thread ends at its time limit, before the thread does."""
    ended, patience = threading.Event(), 30.0

    async def wait_for_a_thread() -> bool:
        return await asyncio.to_thread(ended.wait, patience)

    with pytest.raises(TaskTimeout), limit(0.2):
        _Coroutines().run(wait_for_a_thread())
    assert any(thread.name.startswith("asyncio") for thread in threading.enumerate())
    ended.set()
