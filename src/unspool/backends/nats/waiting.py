"""What wakes a process that waits for a change of the key-value table."""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Collection, Iterator, Sequence

from .jetstream import JetStream, client_errors
from .names import Names
from .runs import Process, me

__all__ = ["changes", "deaths"]

_UNUSED = 15  # seconds after which the server removes a watch whose process has vanished


@contextlib.asynccontextmanager
async def changes(
    stream: JetStream, names: Names, keys: Sequence[str], changed: asyncio.Event, patience: float
) -> AsyncIterator[None]:
    """Set the event when a key is changed while the block runs.

    A subscription to the subjects alone would be notified before the message is stored, and also of a publish that is
    refused. So a consumer delivers the messages.
    """

    async def notice(_: object) -> None:
        changed.set()

    client = stream.link.client
    inbox, name = client.new_inbox(), f"wait-{os.urandom(8).hex()}"
    subscription = await client.subscribe(inbox, cb=notice)
    try:
        config = {
            "name": name,
            "deliver_subject": inbox,
            "deliver_policy": "new",
            "ack_policy": "none",
            "filter_subjects": [names.item(key) for key in keys],
            "headers_only": True,
            "mem_storage": True,
            "num_replicas": 1,
            "inactive_threshold": _UNUSED * 10**9,
        }
        request = {"stream_name": names.table, "config": config}
        await stream.api(f"CONSUMER.CREATE.{names.table}.{name}", request, patience=patience)
        yield
    finally:
        with contextlib.suppress(client_errors()):  # otherwise the server removes it when nothing listens
            await subscription.unsubscribe()
            await client.publish(f"$JS.API.CONSUMER.DELETE.{names.table}.{name}")


@contextlib.contextmanager
def deaths(processes: Collection[Process], changed: asyncio.Event) -> Iterator[bool]:
    """Set the event when one of the processes ends while the block runs.

    :returns: whether the end of some of them is not noticed: processes of other hosts, and all without pidfd.
    """
    loop, descriptors, unwatched = asyncio.get_running_loop(), list[int](), False
    try:
        for process in processes:
            if process == me():
                continue
            if not process.is_local or not hasattr(os, "pidfd_open"):
                unwatched = True
                continue
            try:
                descriptors.append(os.pidfd_open(process.pid))
                loop.add_reader(descriptors[-1], changed.set)
            except OSError:
                unwatched = True
            if process.is_dead:  # by now; the descriptor may be of another process
                changed.set()
        yield unwatched
    finally:
        for descriptor in descriptors:
            loop.remove_reader(descriptor)
            os.close(descriptor)
