"""The tasks that a worker runs or has not settled yet, in memory shared with its supervisor.

A worker does not talk to the server while it runs a task. If its session is lost meanwhile, the lock of its claim is
gone, and only this memory shows that the claim is held.
"""

import mmap
import threading

__all__ = ["Claims"]

_MOST = 1 << 17  # maximum number of claims of one worker; unused memory takes no space


class Claims:
    """Task numbers that the threads of one process write and another process reads."""

    def __init__(self) -> None:
        # The first item is the number of slots after it that may be in use. Task numbers are never 0.
        self._items = memoryview(mmap.mmap(-1, 8 * (1 + _MOST))).cast("q")
        self._places: dict[int, int] = {}
        self._free: list[int] = []
        self._lock = threading.Lock()

    def add(self, number: int) -> None:
        """Add a claim."""
        with self._lock:
            place = self._places.get(number) or (self._free.pop() if self._free else len(self._places) + 1)
            self._places[number] = place
            self._items[place] = number
            self._items[0] = max(self._items[0], place)

    def discard(self, number: int) -> None:
        """Remove a claim, if it exists."""
        with self._lock:
            place = self._places.pop(number, None)
            if place is not None:
                self._items[place] = 0
                self._free.append(place)

    def read(self) -> set[int]:
        """Return all claims, also in the parent of the process that adds them."""
        found = set(self._items[1 : self._items[0] + 1].tolist())
        found.discard(0)
        return found

    def take_back(self, number: int) -> None:
        """Remove a claim that the process which added it will not start, in the parent of this process."""
        places = self._items[1 : self._items[0] + 1].tolist()
        if number in places:
            self._items[1 + places.index(number)] = 0

    def clear(self) -> None:
        """Remove all claims after the process that added them has died."""
        self._items[0] = 0
