"""The part of a feed that runs in the event loop: it requests tasks, extends deliveries and receives switches.

There is a consumer for each priority. The loop fills the feed's room in the order of the priorities. When the queue is
empty, it leaves a request with each consumer, which the server answers when a task arrives. An arrival therefore costs
no delay, and an idle feed sends only a few requests every ten seconds.

A delivery belongs to the feed while the feed confirms it three times per lease. Without a confirmation, the server
delivers it again when the lease ends.
"""

import asyncio
import contextlib
import json
from collections.abc import Callable, Collection
from typing import Any, NamedTuple

from ...errors import SpoolerUnusable
from ..base import UNNUMBERED
from . import ends, runs
from .cluster import Cluster
from .control import NatsControl, Switches
from .jetstream import ApiError, JetStream, client_errors
from .names import CORRUPT, NOW, SOON, Names, is_token, new_token, rank_part
from .overdue import Overdue
from .stored import HEADER, Facts, Stored

__all__ = ["Consumer", "Delivery"]

_STANDING = 10.0  # seconds until a request expires; a request is lost silently when its server dies
_MARGIN = 1.0
_URGENT = 64  # more urgent tasks by which a full feed may be overfilled
_TROUBLE = 0.5  # seconds before a consumer that did not answer is asked again


class Delivery(NamedTuple):
    """A task that was delivered to this feed."""

    rank: int
    due: float
    seq: int
    token: str
    reply: str
    """The subject that acknowledges or extends the delivery."""
    at_once: bool = False
    """Whether the task was sent to run at once."""


class _Request:
    """A pending request to a consumer."""

    def __init__(self, inbox: str, batch: int) -> None:
        self.inbox = inbox
        self.left = batch
        self.ended = asyncio.Event()
        self.trouble = False


class Consumer:
    """Request tasks in the event loop of a cluster's connection.

    :param deliver: called with each task that arrives.
    :param tell: called after any other event.
    """

    def __init__(
        self,
        place: Cluster,
        control: NatsControl,
        overdue: Overdue,
        deliver: Callable[[Delivery], None],
        tell: Callable[[], None],
    ) -> None:
        self._place = place
        self._control = control
        self._overdue = overdue
        self._deliver = deliver
        self._tell = tell
        self.switches = Switches()
        self.progress: dict[str, None] = {}
        """The reply subjects of all deliveries that this feed holds."""
        self.want = 0
        """The number of tasks that the feed has room for, set by ``ask``. It is negative if the feed is overfilled."""
        self._ranks: list[str] = []
        self._open: dict[str, _Request] = {}
        self._sweeps: dict[str, asyncio.Event] = {}
        self._moved = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._subs: list[Any] = []
        self._number = 0
        self._cleaning: asyncio.Task[None] | None = None
        self._swept = False
        """Whether void messages that a restarted server may have restored are deleted."""

    # --- life

    async def start(self, stream: JetStream) -> None:
        """Subscribe, and start requesting tasks."""
        self._stream = stream
        client = stream.link.client
        self._inbox = client.new_inbox()
        names = self._place.names
        self._subs = [
            await client.subscribe(f"{self._inbox}.*", cb=self._on_message, pending_msgs_limit=-1),
            await client.subscribe(names.switches, cb=self._on_switches),
            await client.subscribe(names.notice, cb=self._on_notice),
        ]
        await self.look()
        await self._announce()
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(one) for one in (self._run(), self._keep(), self._overdue.run(stream))]

    async def stop(self) -> None:
        """Stop. Tasks that arrive until the server has processed this are still delivered.

        Otherwise the server would assign them to this feed until the lease ends.
        """
        for task in [*self._tasks, *([self._cleaning] if self._cleaning else [])]:
            task.cancel()
        if self._stream.link.connected:
            with contextlib.suppress(client_errors()):  # if the connection breaks now, the server forgets the requests
                for sub in self._subs:
                    await sub.drain()

    async def return_all(self, unbegun: Collection[Delivery]) -> None:
        """Return deliveries to the server, and wait until the server has processed them.

        The server processes requests to one consumer in order, so only the last one asks for an answer.
        """
        last = {delivery.rank: delivery.reply for delivery in unbegun}
        for delivery in unbegun:
            if delivery.reply != last[delivery.rank]:
                await self.back(delivery.reply, 0.0)
        client = self._stream.link.client
        with contextlib.suppress(client_errors()):  # otherwise they are delivered again after the lease
            await asyncio.gather(*(client.request(reply, b"-NAK", timeout=_MARGIN) for reply in last.values()))

    async def look(self) -> None:
        """Read again what events report, because some events may have been missed."""
        names = self._place.names
        found = await self._stream.consumers(names.tasks, patience=self._place.patience)
        self._know({name.removeprefix("rank-") for name in found if name.startswith("rank-")})
        self.switches = await self._control.look(self._stream)
        self._moved.set()
        if self._cleaning is None or self._cleaning.done():
            self._cleaning = asyncio.get_running_loop().create_task(self._clean())

    async def _clean(self) -> None:
        """Delete what a restarted server has restored, and release what it could not.

        This takes long where many tasks wait, and nothing waits for it: claims refuse void messages.
        """
        names, patience = self._place.names, self._place.patience
        with contextlib.suppress(SpoolerUnusable):  # the next look repeats it
            if not self._swept:
                await ends.drop_void(self._stream, names, patience)
                self._swept = True
            await runs.drop_void(self._stream, names, patience)
            await self._overdue.look(self._stream)

    async def _announce(self) -> None:
        """Announce this process to other hosts as soon as the storage has room."""
        try:
            await self._control.announce(self._stream)
        except ApiError as error:
            if not error.is_full:
                raise

    def ask(self, want: int) -> None:
        """Set the number of tasks that the feed has room for. Call it in the loop."""
        if want != self.want:
            self.want = want
            self._moved.set()

    def connection_changed(self) -> None:
        """Handle a broken or restored connection. The server has forgotten the requests."""
        for request in self._open.values():
            request.ended.set()
        self._open.clear()
        for event in self._sweeps.values():
            event.set()
        self._overdue.renewed()
        self._swept = False
        if self._stream.link.connected:
            self._tasks.append(asyncio.get_running_loop().create_task(self._return()))
        self._tell()

    async def _return(self) -> None:
        with contextlib.suppress(SpoolerUnusable):  # the next full scan repeats it
            await self.look()
        self._moved.set()

    # --- requests

    async def _run(self) -> None:
        while True:
            await self._moved.wait()
            self._moved.clear()
            for rank in list(self._ranks):
                if self.want > 0 and rank not in self._open and self._stream.link.connected:
                    request = await self._request(rank, self.want, no_wait=True)
                    await self._end_of(request, 2 * _MARGIN)
                    if request.trouble:
                        asyncio.get_running_loop().call_later(_TROUBLE, self._moved.set)
            share = max(1, self.want // max(len(self._ranks), 1))
            for rank in self._ranks:
                # Urgent tasks are always requested; otherwise a feed full of other tasks would receive them last.
                urgent = self.want > -_URGENT and rank != self._ranks[-1]
                if (self.want > 0 or urgent) and rank not in self._open and self._stream.link.connected:
                    request = await self._request(rank, share, no_wait=False)
                    self._watch(rank, request)

    def _watch(self, rank: str, request: _Request) -> None:
        async def watch() -> None:
            await self._end_of(request, _STANDING + _MARGIN)
            if request.trouble:
                await asyncio.sleep(_TROUBLE)
            if self._open.get(rank) is request:
                del self._open[rank]
            self._moved.set()

        task = asyncio.get_running_loop().create_task(watch())
        self._tasks = [one for one in self._tasks if not one.done()] + [task]

    async def _request(self, rank: str, batch: int, *, no_wait: bool) -> _Request:
        self._number += 1
        request = _Request(f"{self._inbox}.{self._number}", batch)
        self._open[rank] = request
        asked = {"batch": batch, "no_wait": True} if no_wait else {"batch": batch, "expires": int(_STANDING * 1e9)}
        await self._next(rank, request.inbox, asked)
        return request

    async def _next(self, rank: str, inbox: str, asked: dict[str, Any]) -> None:
        names = self._place.names
        subject = f"$JS.API.CONSUMER.MSG.NEXT.{names.tasks}.{names.consumer(rank)}"
        with contextlib.suppress(client_errors()):
            await self._stream.link.client.publish(subject, json.dumps(asked).encode(), reply=inbox)

    async def _end_of(self, request: _Request, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(request.ended.wait(), seconds)
        for rank, one in list(self._open.items()):
            if one is request:
                del self._open[rank]

    async def sweep(self) -> bool:
        """Return whether tasks may remain; False only if all messages stored before the call have been handed out.

        A consumer receives a new message a moment after its sender gets the answer. The stream itself is therefore
        asked first for messages after the last one handed out. Then the consumers are asked; their answers come after
        all messages that they sent.
        """
        self._know(self._place.ranks)
        self.switches = await self._control.look(self._stream)
        known, self._arrived = list(self._ranks), False
        # No request is made for the others.
        ranks = known if self.want > 0 else known[:-1] if self.want > -_URGENT else []
        before = self._number
        if any(await asyncio.gather(*(self._beyond(rank) for rank in ranks))):
            return True
        events = []
        for rank in ranks:
            self._number += 1
            inbox = f"{self._inbox}.{self._number}"
            self._sweeps[inbox] = event = asyncio.Event()
            events.append(event)
            await self._next(rank, inbox, {"batch": 1, "no_wait": True})
        try:
            async with asyncio.timeout(2 * _MARGIN):  # ``wait_for`` and ``gather`` log an error when they are cancelled
                for event in events:
                    await event.wait()
        except TimeoutError:
            return True  # unknown
        finally:
            for number in range(before, self._number):
                self._sweeps.pop(f"{self._inbox}.{number + 1}", None)
        return self._arrived or known != self._ranks

    async def _beyond(self, rank: str) -> bool:
        """Return whether a priority has a message that was not handed out yet."""
        names, patience = self._place.names, self._place.patience
        consumer = f"{names.tasks}.{names.consumer(rank)}"
        info = await self._stream.api(f"CONSUMER.INFO.{consumer}", patience=patience)
        after = int(info["delivered"]["stream_seq"]) + 1
        subjects = [names.task(kind, rank, "*") for kind in (NOW, SOON)]
        found = [self._stream.next(names.tasks, subject, after, patience=patience) for subject in subjects]
        return any(await asyncio.gather(*found))

    # --- what arrives

    async def _on_message(self, message: Any) -> None:
        names = self._place.names
        if not message.subject.startswith(self._inbox):
            self._on_delivery(names, message)
            return
        status = (message.headers or {}).get("Status")
        event = self._sweeps.get(message.subject)
        if event is not None:
            event.set()
        for request in self._open.values():
            if request.inbox == message.subject:
                request.trouble = status not in ("404", "408")
                request.ended.set()
        if status == "503":
            self._moved.set()

    def _on_delivery(self, names: Names, message: Any) -> None:
        kind, priority, token = names.place(message.subject)
        rank = rank_part(priority)
        request = self._open.get(rank)
        if request is not None:
            request.left -= 1
            if request.left <= 0:
                request.ended.set()
        self._arrived = True
        for event in self._sweeps.values():
            event.set()
        parts = message.reply.split(".")  # $JS.ACK[.domain.account].stream.consumer.times.sequence.…
        seq = int(parts[-4])
        if not is_token(token):
            task = asyncio.get_running_loop().create_task(self._refuse(seq, rank))
            self._tasks.append(task)
            return
        header = (message.headers or {}).get(HEADER, "")
        facts = Stored(message.subject, seq, int(parts[-2]) / 1e9, header, b"").facts
        self.progress[message.reply] = None
        self.want -= 1
        self._deliver(Delivery(_rank(rank), facts.due, seq, token, message.reply, kind == NOW))

    async def _refuse(self, seq: int, rank: str) -> None:
        """Move a message whose subject names no task, and that no worker could claim, to the dead letters."""
        names, patience = self._place.names, self._place.patience
        with contextlib.suppress(SpoolerUnusable):  # it is delivered again
            stored = await self._stream.get(names.tasks, seq, patience=patience)
            if stored is not None:
                now = stored.time
                facts = Facts(now, reason=f"published under a subject that names no task: {stored.subject[:200]}")
                subject = names.task(CORRUPT, rank, new_token(now))
                await self._stream.publish(names.aside, subject, stored.data, {HEADER: facts.dump()}, patience=patience)
                await self._stream.delete(names.tasks, seq, patience=patience)

    async def _on_switches(self, message: Any) -> None:
        self.switches = Switches.of(message.data)
        self._tell()

    async def _on_notice(self, message: Any) -> None:
        self._know({message.data.decode("ascii", "replace")})

    def _know(self, ranks: set[str]) -> None:
        if not ranks.issubset(self._ranks):
            self._ranks = sorted(ranks.union(self._ranks), key=_rank)
            self._moved.set()

    # --- deliveries

    async def _keep(self) -> None:
        """Extend all deliveries that this feed holds."""
        client = self._stream.link.client
        while True:
            await asyncio.sleep(self._place.lease / 3)
            with contextlib.suppress(SpoolerUnusable):
                await self._announce()
            for reply in list(self.progress):
                if not self._stream.link.connected:
                    break
                with contextlib.suppress(client_errors()):
                    await client.publish(reply, b"+WPI")

    async def back(self, reply: str, delay: float) -> None:
        """Return a delivery to the server, which delivers it again after ``delay`` seconds."""
        self.progress.pop(reply, None)
        nanoseconds = int(min(max(delay, 0.0), 365 * 86400.0) * 1e9)
        data = b'-NAK {"delay": %d}' % nanoseconds if nanoseconds else b"-NAK"
        with contextlib.suppress(client_errors()):  # otherwise it is delivered again after the lease
            await self._stream.link.client.publish(reply, data)


def _rank(rank: str) -> int:
    return int(rank) if rank.isascii() and rank.isdigit() else UNNUMBERED
