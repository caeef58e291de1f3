"""The part of a feed that speaks to the servers: it requests tasks, extends deliveries and receives switches.

There is a consumer for each priority. The feed's room is filled in the order of the priorities. When the queue is
empty, a request stays with each consumer, and the server answers it when a task arrives. An arrival therefore costs no
delay, and an idle feed sends only a few requests every ten seconds.

A delivery belongs to the feed while the feed confirms it three times per lease. Without a confirmation, the server
delivers it again when the lease ends.
"""

import contextlib
import json
import time
from collections.abc import Callable, Collection, Iterator
from typing import Any, NamedTuple

from ..base import UNNUMBERED
from . import ends, runs
from .cluster import Cluster
from .connection import Connection, Message
from .names import CORRUPT, NOW, SOON, is_token, new_token, rank_part
from .overdue import Overdue
from .registrations import Registrations
from .requests import Request, message_of, read
from .stored import HEADER, Facts, Stored
from .switches import NatsSwitches

__all__ = ["Consumer", "Delivery"]

_PATIENCE = 2.0  # seconds for which the supervisor waits for an answer
_STANDING = 10.0  # seconds until a request expires; a request is lost silently when its server dies
_MARGIN = 1.0
_URGENT = 64  # more urgent tasks by which a full feed may be overfilled
_TROUBLE = 0.5  # seconds before a consumer that did not answer is asked again
_PING = 5.0  # seconds of silence after which the server is asked to send something; after twice as many it is gone
_STEP = 0.005  # seconds of cleaning between two turns of the supervisor


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
    """A pending request to a consumer.

    :param standing: whether it waits for tasks.
    """

    def __init__(self, inbox: str, batch: int, standing: bool, until: float) -> None:
        self.inbox = inbox
        self.left = batch
        self.standing = standing
        self.until = until
        self.ended = False


class Consumer:
    """Request tasks over a connection of its own.

    :param deliver: called with each task that arrives.
    """

    def __init__(
        self,
        place: Cluster,
        switches: NatsSwitches,
        registrations: Registrations,
        overdue: Overdue,
        deliver: Callable[[Delivery], None],
    ) -> None:
        self._place = place
        self._switches = switches
        self._registrations = registrations
        self._overdue = overdue
        self._deliver = deliver
        self.stream = place.connect(_PATIENCE)
        self.stream.on_open = self._on_open
        self.switches = switches.of(b"")
        self.progress: dict[str, None] = {}
        """The reply subjects of all deliveries that this feed holds."""
        self.want = 0
        """The number of tasks that the feed has room for, set by ``ask``. It is negative if the feed is overfilled."""
        self._ranks: list[str] = []
        self._open: dict[str, _Request] = {}
        self._filling: _Request | None = None
        self._turn: list[str] = []
        self._moved = False
        self._moves_at: float | None = None
        self._sweeps = set[str]()
        self._arrived = False
        self._subscriptions: list[int] = []
        self._number = 0
        self._refused: list[tuple[int, str]] = []
        self._cleaning: Iterator[None] | None = None
        self._swept = False
        """Whether void messages that a restarted server may have restored are deleted."""
        self._next_keep = self._next_overdue = self._pinged = 0.0

    # --- the connection

    def connect(self) -> None:
        """Open the connection if it is not open.

        :raises SpoolerUnusable: if no server can be used.
        """
        self.stream.open(once=True)
        self._place.prepare(self.stream)
        self.look()

    def _on_open(self, connection: Connection) -> None:
        """Subscribe. The server has forgotten the requests of an earlier connection."""
        if self._subscriptions:
            self._overdue.renewed()
        names, self._inbox = self._place.names, connection.new_inbox()
        self._subscriptions = [
            connection.subscribe(f"{self._inbox}.*", self._on_message),
            connection.subscribe(names.switches, self._on_switches),
            connection.subscribe(names.notice, self._on_notice),
        ]
        self._open.clear()
        self._turn.clear()
        self._sweeps.clear()
        self._moved, self._swept = True, False

    @property
    def connected(self) -> bool:
        """Return whether the connection is open, as far as is known."""
        return self.stream.is_open

    def stop(self, unbegun: Callable[[], Collection[Delivery]]) -> None:
        """Return deliveries to the server, and close the connection.

        :param unbegun: returns the deliveries, called when no more can arrive. Otherwise the server would assign some
            to this feed until the lease ends.
        """
        if self.connected:
            with contextlib.suppress(OSError):  # otherwise they are delivered again after the lease
                connection = self.stream.open()
                connection.drain(self._subscriptions)
                for number in [connection.ask(delivery.reply, b"-NAK") for delivery in unbegun()]:
                    connection.answer(number)
        self.stream.close()

    def look(self) -> None:
        """Read again what events report, because some events may have been missed.

        :raises SpoolerUnusable: if no server can be used.
        """
        found = self.stream.consumers(self._place.names.tasks)
        self._know({name.removeprefix("rank-") for name in found if name.startswith("rank-")})
        self.switches = self._switches.look(self.stream)
        self._moved = True
        if self._cleaning is None:
            self._cleaning = self._clean()

    def _clean(self) -> Iterator[None]:
        """Delete what a restarted server has restored, and release what it could not.

        This takes long where many tasks wait, and nothing waits for it: claims refuse void messages.
        """
        if not self._swept:
            yield from ends.drop_void(self.stream, self._place.names)
            self._swept = True
        yield from runs.drop_void(self.stream, self._place.names)
        yield from self._overdue.look(self.stream)

    def work(self) -> bool:
        """Do what is due besides requests. Return whether more is left to do at once."""
        now, connection = time.monotonic(), self.stream.open()
        if now - connection.heard >= 2 * _PING:
            self.stream.close()
            return False
        if now - connection.heard >= _PING and self._pinged <= connection.heard:
            self._pinged = now
            connection.ping()
        if now >= self._next_keep:
            self._next_keep = now + self._place.lease / 3
            self.stream.tell(*(Request(reply, b"+WPI") for reply in self.progress))
            self._registrations.beat(self.stream)
        if now >= self._next_overdue and self._cleaning is None:
            self._next_overdue = now + self._overdue.interval
            self._cleaning = self._overdue.look(self.stream, 1)
        while self._refused:
            self._refuse(*self._refused[-1])
            self._refused.pop()
        return self._clean_on(now + _STEP)

    def _clean_on(self, end: float) -> bool:
        while self._cleaning is not None and time.monotonic() < end:
            try:
                next(self._cleaning)
            except StopIteration:
                self._cleaning = None
            except BaseException:
                self._cleaning = None  # the next look repeats it
                raise
        return self._cleaning is not None

    @property
    def next_due(self) -> float:
        """Return when ``work`` or ``advance`` has something to do, as a time of ``time.monotonic``."""
        times = [self._next_keep, self._next_overdue, *(request.until for request in self._open.values())]
        if self.connected:
            heard = self.stream.open().heard
            times.append(heard + (2 * _PING if self._pinged > heard else _PING))
        if self._moves_at is not None:
            times.append(self._moves_at)
        return min(times)

    # --- requests

    def ask(self, want: int) -> None:
        """Set the number of tasks that the feed has room for, and request them."""
        if want != self.want:
            self.want, self._moved = want, True
        self.advance()

    def advance(self) -> None:
        """Send the requests that are due. Nothing waits for their answers."""
        if not self.connected:
            return
        now = time.monotonic()
        if self._moves_at is not None and now >= self._moves_at:
            self._moves_at, self._moved = None, True
        for rank, request in list(self._open.items()):
            if request.ended or now >= request.until:
                del self._open[rank]
                self._moved |= request.standing
        if self._filling in self._open.values():
            return  # its answers decide how much room is left for the next priorities
        if self._moved and not self._turn:
            self._moved, self._turn = False, list(self._ranks)
        while self._turn:
            rank = self._turn.pop(0)
            if self.want > 0 and rank not in self._open:
                self._filling = self._request(rank, self.want, standing=False)
                return
        share = max(1, self.want // max(len(self._ranks), 1))
        for rank in self._ranks:
            # Urgent tasks are always requested; otherwise a feed full of other tasks would receive them last.
            urgent = self.want > -_URGENT and rank != self._ranks[-1]
            if (self.want > 0 or urgent) and rank not in self._open:
                self._request(rank, share, standing=True)

    def _request(self, rank: str, batch: int, *, standing: bool) -> _Request:
        until = time.monotonic() + (_STANDING + _MARGIN if standing else 2 * _MARGIN)
        request = self._open[rank] = _Request(self._next_inbox(), batch, standing, until)
        wait = {"expires": int(_STANDING * 1e9)} if standing else {"no_wait": True}
        self._next(rank, request.inbox, {"batch": batch, **wait})
        return request

    def _next_inbox(self) -> str:
        self._number += 1
        return f"{self._inbox}.{self._number}"

    def _next(self, rank: str, inbox: str, asked: dict[str, Any]) -> None:
        names = self._place.names
        subject = f"$JS.API.CONSUMER.MSG.NEXT.{names.tasks}.{names.consumer(rank)}"
        with contextlib.suppress(OSError):  # ``connected`` is false then
            connection = self.stream.open()
            connection.send(subject, json.dumps(asked).encode(), reply=inbox)
            connection.flush()

    def sweep(self) -> bool:
        """Return whether tasks may remain; False only if all messages stored before the call have been handed out.

        A consumer receives a new message a moment after its sender gets the answer. The stream itself is therefore
        asked first for messages after the last one handed out. Then the consumers are asked; their answers come after
        all messages that they sent.

        :raises SpoolerUnusable: if no server can be used.
        """
        self._know(self._place.ranks)
        connection = self.stream.open()
        self.switches = self._switches.look(self.stream)
        known, self._arrived = list(self._ranks), False
        # No request is made for the others.
        ranks = known if self.want > 0 else known[:-1] if self.want > -_URGENT else []
        if self._beyond(ranks):
            return True
        for rank in ranks:
            self._sweeps.add(inbox := self._next_inbox())
            self._next(rank, inbox, {"batch": 1, "no_wait": True})
        try:
            while self._sweeps and not self._arrived:
                connection.receive()
        except OSError:
            return True  # unknown
        finally:
            self._sweeps.clear()
        return self._arrived or known != self._ranks or connection.closed

    def _beyond(self, ranks: Collection[str]) -> bool:
        """Return whether one of the priorities has a message that was not handed out yet."""
        names, requests = self._place.names, list[Request]()
        for rank in ranks:
            info = self.stream.api(f"CONSUMER.INFO.{names.tasks}.{names.consumer(rank)}")
            after = int(info["delivered"]["stream_seq"]) + 1
            for kind in (NOW, SOON):
                requests.append(read(names.tasks, {"seq": after, "next_by_subj": names.task(kind, rank, "*")}))
        return any(message_of(answer) is not None for answer in self.stream.ask_all(requests))

    # --- what arrives

    def _on_message(self, message: Message) -> None:
        if not message.subject.startswith(self._inbox):
            self._on_delivery(message)
            return
        self._sweeps.discard(message.subject)
        for request in self._open.values():
            if request.inbox == message.subject:
                trouble = message.status not in ("404", "408")
                again = time.monotonic() + _TROUBLE
                if trouble and request.standing:
                    request.until = again
                    continue
                request.ended = True
                if trouble:
                    self._moves_at = again

    def _on_delivery(self, message: Message) -> None:
        kind, priority, token = self._place.names.place(message.subject)
        rank = rank_part(priority)
        request = self._open.get(rank)
        if request is not None:
            request.left -= 1
            request.ended = request.ended or request.left <= 0
        self._arrived = True
        parts = message.reply.split(".")  # $JS.ACK[.domain.account].stream.consumer.times.sequence.…
        seq = int(parts[-4])
        if not is_token(token):
            self._refused.append((seq, rank))
            return
        facts = Stored(message.subject, seq, int(parts[-2]) / 1e9, message.headers.get(HEADER, ""), b"").facts
        self.progress[message.reply] = None
        self.want -= 1
        self._deliver(Delivery(_rank(rank), facts.due, seq, token, message.reply, kind == NOW))

    def _refuse(self, seq: int, rank: str) -> None:
        """Move a message whose subject names no task, and that no worker could claim, to the dead letters."""
        names = self._place.names
        stored = self.stream.get(names.tasks, seq)
        if stored is not None:
            now = stored.time
            facts = Facts(now, reason=f"published under a subject that names no task: {stored.subject[:200]}")
            subject = names.task(CORRUPT, rank, new_token(now))
            self.stream.publish(names.aside, subject, stored.data, {HEADER: facts.dump()})
            self.stream.delete(names.tasks, seq)

    def _on_switches(self, message: Message) -> None:
        self.switches = self._switches.of(message.data)

    def _on_notice(self, message: Message) -> None:
        self._know({message.data.decode("ascii", "replace")})

    def _know(self, ranks: set[str]) -> None:
        if not ranks.issubset(self._ranks):
            self._ranks = sorted(ranks.union(self._ranks), key=_rank)
            self._moved = True

    # --- deliveries

    def back(self, reply: str, delay: float) -> None:
        """Return a delivery to the server, which delivers it again after ``delay`` seconds.

        If this is lost, the server delivers it again after the lease.
        """
        self.progress.pop(reply, None)
        nanoseconds = int(min(max(delay, 0.0), 365 * 86400.0) * 1e9)
        self.stream.tell(Request(reply, b'-NAK {"delay": %d}' % nanoseconds if nanoseconds else b"-NAK"))


def _rank(rank: str) -> int:
    return int(rank) if rank.isascii() and rank.isdigit() else UNNUMBERED
