"""The descriptors that a supervisor waits for."""

import contextlib
import selectors

__all__ = ["Watches"]


class Watches:
    """Descriptors that end a wait when they become readable."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()

    def add(self, fd: int) -> None:
        """Watch a descriptor, unless it is watched already."""
        with contextlib.suppress(KeyError):
            self._selector.register(fd, selectors.EVENT_READ)

    def discard(self, fd: int) -> None:
        """Stop watching a descriptor, which may already be closed."""
        with contextlib.suppress(KeyError, ValueError, OSError):
            self._selector.unregister(fd)

    def wait(self, seconds: float | None) -> set[int]:
        """Wait until a descriptor is readable or the time has passed, and return the readable ones."""
        return {key.fd for key, _ in self._selector.select(seconds)}

    def close(self) -> None:
        """End all watches."""
        self._selector.close()
