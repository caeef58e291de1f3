"""The switches of the queue and its live processes."""

import contextlib
import mmap
import os
from pathlib import Path

from unspool.backends.base import Registration, WorkerInfo, check_period
from unspool.backends.slot import SIZE, Slot, parse

from .locks import LockedFile, is_locked
from .store import Store

__all__ = ["SqliteControl"]


class SqliteControl:
    """Implement ``unspool.backends.base.Control`` with a table and a directory.

    :param period: the period until a user sets another.
    """

    def __init__(self, store: Store, period: float) -> None:
        self._store = store
        self._period = period

    @property
    def paused(self) -> bool:
        return self._get("paused") is not None

    def pause(self) -> None:
        self._set("paused", 1.0)

    def resume(self) -> None:
        with self._store.writing() as database:
            database.execute("DELETE FROM switch WHERE name = 'paused'")

    @property
    def period(self) -> float:
        found = self._get("period")
        return self._period if found is None else found

    def set_period(self, seconds: float) -> None:
        self._set("period", check_period(seconds))

    def register(self, role: str) -> Registration:
        self.live()  # removes the files of dead processes
        return SqliteRegistration(self._store.locks, role)

    def live(self) -> list[WorkerInfo]:
        found = []
        for name in sorted(os.listdir(self._store.locks)) if os.path.isdir(self._store.locks) else []:
            path = os.path.join(self._store.locks, name)
            if name.startswith("."):  # it is being made
                continue
            with contextlib.suppress(FileNotFoundError):  # another process has removed it
                if not is_locked(path):
                    os.unlink(path)
                elif (info := parse(name.partition("-")[0], Path(path).read_bytes())) is not None:
                    found.append(info)
        return found

    def _get(self, name: str) -> float | None:
        with self._store.reading() as database:
            row = database.execute("SELECT value FROM switch WHERE name = ?", (name,)).fetchone()
        return row["value"] if row else None

    def _set(self, name: str, value: float) -> None:
        with self._store.writing() as database:
            database.execute("INSERT OR REPLACE INTO switch VALUES (?, ?)", (name, value))


class SqliteRegistration(Slot):
    """Implement ``unspool.backends.base.Registration`` with a locked file that is mapped into memory.

    A supervisor makes it and then forks the worker, which shares the lock. The supervisor then leaves it to the worker.
    """

    def __init__(self, folder: str, role: str) -> None:
        self._lock = LockedFile(folder, role, size=SIZE, shared=True)
        file = os.open(self._lock.path, os.O_RDWR | os.O_CLOEXEC)  # the memory must not keep the lock
        try:
            super().__init__(role, mmap.mmap(file, SIZE))
        finally:
            os.close(file)

    def detach(self) -> None:
        self._lock.leave()

    def close(self) -> None:
        self._lock.remove()
