"""What a worker runs, and what it has ended and not settled, in memory that it shares with its supervisor.

A worker that runs a task does not talk to the server. When its session is lost meanwhile, the lock of its claim is
gone, and only this memory says that the claim is held.
"""

import mmap
import threading

__all__ = ["Claims"]

_MOST = 1 << 17  # claims of one worker; memory that is not touched takes no room


class Claims:
    """The numbers of tasks, written by the threads of one process and read by another process."""

    def __init__(self) -> None:
        # The first item tells how many of those behind it may be in use; 0 is no task's number.
        self._items = memoryview(mmap.mmap(-1, 8 * (1 + _MOST))).cast("q")
        self._places: dict[int, int] = {}
        self._free: list[int] = []
        self._lock = threading.Lock()

    def add(self, number: int) -> None:
        """Notes a claim."""
        with self._lock:
            if number in self._places:
                return
            place = self._free.pop() if self._free else len(self._places) + 1
            self._places[number] = place
            self._items[place] = number
            self._items[0] = max(self._items[0], place)

    def discard(self, number: int) -> None:
        """Forgets a claim, if there is one."""
        with self._lock:
            place = self._places.pop(number, None)
            if place is not None:
                self._items[place] = 0
                self._free.append(place)

    def read(self) -> set[int]:
        """All of them, also in the parent of the process that notes them."""
        found = set(self._items[1 : self._items[0] + 1].tolist())
        found.discard(0)
        return found

    def clear(self) -> None:
        """Forgets all, after the death of the process that noted them."""
        self._items[0] = 0
