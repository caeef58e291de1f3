"""What wakes a process that waits for a change of the key-value table."""

import contextlib
import os
import select
from collections.abc import Collection, Iterator, Sequence
from types import TracebackType

from .connection import Message
from .jetstream import JetStream
from .names import Names
from .requests import Request
from .runs import Process, me

__all__ = ["Watch", "deaths"]

_UNUSED = 15  # seconds after which the server removes a watch whose process has vanished


class Watch:
    """A consumer that notices changes of keys while a block runs.

    A subscription to the subjects alone would be notified before the message is stored, and also of a publish that is
    refused. So a consumer delivers the messages.

    :raises SpoolerUnusable: if no server can be used.
    """

    def __init__(self, stream: JetStream, names: Names, keys: Sequence[str]) -> None:
        self._stream = stream
        self._table = names.table
        self._name = f"wait-{os.urandom(8).hex()}"
        self._changed = False
        self._connection = connection = stream.open()
        inbox = connection.new_inbox()
        self._subscription = connection.subscribe(inbox, self._notice)
        config = {
            "name": self._name,
            "deliver_subject": inbox,
            "deliver_policy": "new",
            "ack_policy": "none",
            "filter_subjects": [names.item(key) for key in keys],
            "headers_only": True,
            "mem_storage": True,
            "num_replicas": 1,
            "inactive_threshold": _UNUSED * 10**9,
        }
        stream.api(f"CONSUMER.CREATE.{names.table}.{self._name}", {"stream_name": names.table, "config": config})

    def _notice(self, _: Message) -> None:
        self._changed = True

    @property
    def is_lost(self) -> bool:
        """Return whether the connection has ended, so that changes are not noticed any more."""
        return self._connection.closed

    def wait(self, descriptors: Collection[int], seconds: float) -> None:
        """Return when a key was changed, a descriptor is readable, the connection is lost, or the time is over."""
        with contextlib.suppress(OSError):
            self._connection.poll()
            if not self._changed and not self.is_lost:
                select.select([self._connection.fileno(), *descriptors], [], [], seconds)
                self._connection.poll()
        self._changed = False

    def __enter__(self) -> "Watch":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self.is_lost:  # otherwise the server removes it
            self._connection.unsubscribe(self._subscription)
            self._stream.tell(Request(f"$JS.API.CONSUMER.DELETE.{self._table}.{self._name}"))


@contextlib.contextmanager
def deaths(processes: Collection[Process]) -> Iterator[tuple[list[int], bool]]:
    """Yield descriptors that become readable when processes end, and whether the end of some of them is not noticed.

    That is so for processes of other hosts, and for all without pidfd.
    """
    descriptors, unwatched = list[int](), False
    try:
        for process in processes:
            if process == me():
                continue
            if not process.is_local or not hasattr(os, "pidfd_open"):
                unwatched = True
                continue
            try:
                descriptors.append(os.pidfd_open(process.pid))
            except OSError:
                unwatched = True
        yield descriptors, unwatched
    finally:
        for descriptor in descriptors:
            os.close(descriptor)
