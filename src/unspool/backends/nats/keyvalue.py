"""The key-value table of a spooler: one message for each key, in a stream of its own.

The last message of a key's subject states its item, or states that the item was dropped. Each change is one publish, on
the condition that the last message is the one that was read. So a change is atomic, and the version of an item is the
sequence number of its message.

No message is deleted by a request, because a killed server can restore a deleted message (see
``docs/decisions/0008-nats.md``). A message that was replaced may come back, but never as the last one of its subject.
The server itself deletes messages by their time to live. A message therefore never has a shorter one than the message
that it replaces, and none if that one has none. So when the last message of a key expires, all earlier ones have
expired too, whatever a server restores.

An item with a time is absent from that time on by the clock of the backend. The server deletes it some minutes later.

An ephemeral item names its process: host, pid and start time. It is absent when the process is dead, which is decided
as for the claim of a dead worker. On its own host, the kernel shows the death at once; a pid with another start time is
another process. So a child that is forked later neither keeps nor ends the item. A lock that children inherit would not
have this property, and a process that uses the table need not have a registration file. For other hosts, a process
lives while it publishes its entry (see ``registrations``), so there an item ends a lease after its process. A process
that was cut off for longer has lost its items: the process that finds such an item absent drops it, so it stays absent.
"""

import contextlib
import math
import time
from collections.abc import Mapping, Sequence
from typing import TypeVar

from ... import forks
from ...errors import OptionRefused, SpoolerUnusable
from ..base import Clock
from ..keyvalue import FOREVER, Ephemeral, Item, Life, Until, check_key, check_life, check_value
from . import runs
from .cluster import Cluster, Work
from .item import Found, Header
from .jetstream import JetStream
from .registrations import Registrations
from .requests import ID, NO_STREAM, ApiError, Conflict, message_of, new_id, read
from .stored import ROOM
from .waiting import Watch, deaths

__all__ = ["NatsKeyValue"]

T = TypeVar("T")

_MARGIN = 300
"""Seconds after its end for which the server keeps an item, because clocks differ."""
_LONGEST_TTL = 10 * 365 * 86400
_AT_ONCE = 64  # reads in flight at a time
_ROUND = 10.0  # seconds after which a wait reads again, in case the server has lost its watch
_LEAST_ROUND = 0.05


class NatsKeyValue:
    """Implements ``keyvalue.KeyValue`` for a spooler.

    A repeated request whose first answer was lost is recognised by the id of the last message. If another process has
    changed the key since, the result is unknown, and the method raises ``SpoolerUnusable``.
    """

    def __init__(self, place: Cluster, registrations: Registrations, clock: Clock) -> None:
        self._place = place
        self._names = place.names
        self._registrations = registrations
        self._clock = clock
        self._created = False
        """Whether the stream is known to exist. The first ``put`` creates it."""
        self._ephemeral: dict[str, int] = {}
        """The versions of the ephemeral items of this object in this process."""
        forks.register(after_in_child=self._begin_in_child)

    def get(self, keys: Sequence[str]) -> list[Item | None]:
        found = self._found([check_key(key) for key in keys])
        return [one.item if one else None for one in found]

    def put(self, key: str, value: bytes, *, expect: int | None = None, life: Life = FOREVER) -> int | None:
        check_key(key), check_value(value), check_life(life)
        self._create()
        self._place.call(lambda stream: self._check_size(stream, value))
        if isinstance(life, Ephemeral):
            self._place.call(self._registrations.announce)  # other hosts would take the process for dead
        header, ids = self._header(life), set[str]()
        version = self._try(lambda stream: self._put(stream, key, value, expect, header, ids))
        mine = self._ephemeral
        if version is not None and version > mine.get(key, 0):  # otherwise another thread has put a later one
            mine.pop(key, None)
            if header.process is not None:
                mine[key] = version
        return version

    def drop(self, key: str, *, expect: int | None = None) -> bool:
        check_key(key)
        ids, mine = set[str](), self._ephemeral
        before = mine.get(key)
        dropped = self._try(lambda stream: self._drop(stream, key, expect, ids))
        if dropped and mine.get(key) == before:
            mine.pop(key, None)
        return dropped

    def scan(self, prefix: str, after: str = "", limit: int = 1000) -> list[tuple[str, Item]]:
        check_key(prefix, prefix=True), check_key(after, prefix=True)
        return self._place.call(lambda stream: self._scan(stream, prefix, after, limit))

    def wait(self, versions: Mapping[str, int], timeout: float) -> bool:
        known = {check_key(key): version for key, version in versions.items()}
        if _differ(known, self._found(list(known))):
            return True
        if timeout <= 0:
            return False
        self._create()
        return self._place.call(lambda stream: self._wait(stream, known, timeout))

    def close(self) -> None:
        """Drop the ephemeral items that this object has put in this process.

        If the servers cannot be reached, they end with the process.
        """
        mine, self._ephemeral = self._ephemeral, {}
        with contextlib.suppress(SpoolerUnusable):
            for key, version in mine.items():
                self.drop(key, expect=version)

    # --- requests

    def _try(self, work: Work[T]) -> T:
        try:
            return self._place.call(work)
        except SpoolerUnusable:
            self._created = False  # the stream may have been deleted
            raise

    def _create(self) -> None:
        if not self._created:
            self._place.call(self._place.ensure_table)
            self._created = True

    def _check_size(self, stream: JetStream, value: bytes) -> None:
        room = stream.open().max_payload - ROOM
        if len(value) > room:
            raise OptionRefused(
                f"a value of {len(value)} bytes is too large: {stream.shown} accepts at most {room} besides the "
                "headers; raise max_payload there, or keep large data elsewhere"
            )

    def _header(self, life: Life) -> Header:
        if isinstance(life, Ephemeral):
            return Header(process=runs.me())
        if not isinstance(life, Until):
            return Header()
        left = max(life.time - self._clock(), 0.0) + _MARGIN
        return Header(until=life.time, ttl=math.ceil(left) if left < _LONGEST_TTL else 0)

    def _begin_in_child(self) -> None:
        self._ephemeral = {}  # they are the parent's

    def _found(self, keys: Sequence[str]) -> list[Found | None]:
        """Return the last message of each key if it is an item."""
        return self._try(lambda stream: self._currents(stream, keys))

    def _last(self, stream: JetStream, key: str) -> Found | None:
        return self._lasts(stream, [key])[0]

    def _lasts(self, stream: JetStream, keys: Sequence[str]) -> list[Found | None]:
        names, found = self._names, list[Found | None]()
        for answer in stream.ask_all([read(names.table, {"last_by_subj": names.item(key)}) for key in keys]):
            if isinstance(answer, ApiError) and answer.code == NO_STREAM:
                found.append(None)  # nothing was ever put
            else:
                stored = message_of(answer)
                found.append(None if stored is None else Found(stored, Header.of(stored.header)))
        return found

    def _is_present(self, stream: JetStream, found: Found) -> bool:
        header = found.header
        if header.dropped or (header.until is not None and header.until <= self._clock()):
            return False
        if header.process is None:
            return True
        return runs.is_alive(stream, self._names, header.process)

    def _currents(self, stream: JetStream, keys: Sequence[str]) -> list[Found | None]:
        """Return the last message of each key if it is an item. Drop items whose processes have ended."""
        found = self._lasts(stream, keys)
        for index, (key, one) in enumerate(zip(keys, found, strict=True)):
            if one is not None and not self._is_present(stream, one):
                found[index] = None
                if one.header.process is not None:
                    with contextlib.suppress(Conflict, SpoolerUnusable):  # the next reader repeats it
                        self._publish_drop(stream, key, one, new_id())
        return found

    def _put(
        self, stream: JetStream, key: str, value: bytes, expect: int | None, header: Header, ids: set[str]
    ) -> int | None:
        """Put a value.

        :param ids: the message ids of earlier attempts. One of them may have succeeded without an answer.
        """
        names = self._names
        subject, unsure = names.item(key), bool(ids)
        former = self._last(stream, key) if expect != 0 or ids else None  # usually there is none
        while True:
            if former is not None and former.stored.id in ids:
                return former.stored.seq
            version = former.stored.seq if former and self._is_present(stream, former) else 0
            if expect is not None and version != expect:
                return self._unless(unsure, key, None)
            new, seq = (header.replacing(former.header), former.stored.seq) if former else (header, 0)
            id = new_id()
            ids.add(id[ID])
            try:
                headers = new.dump() | id
                return stream.publish(names.table, subject, value, headers, replaces=(subject, seq))
            except Conflict as conflict:
                unsure = unsure or conflict.unsure
                former = self._last(stream, key)

    def _drop(self, stream: JetStream, key: str, expect: int | None, ids: set[str]) -> bool:
        unsure = bool(ids)
        while True:
            found = self._last(stream, key)
            if found is not None and found.stored.id in ids:
                return True
            if found is None or not self._is_present(stream, found):
                return self._unless(unsure, key, False)
            if expect is not None and found.stored.seq != expect:
                return self._unless(unsure, key, False)
            id = new_id()
            ids.add(id[ID])
            try:
                self._publish_drop(stream, key, found, id)
            except Conflict as conflict:
                unsure = unsure or conflict.unsure
            else:
                return True

    def _unless(self, unsure: bool, key: str, result: T) -> T:
        """Return the result of a refused change.

        :raises SpoolerUnusable: if an earlier attempt may have made the change.
        """
        if unsure:
            raise SpoolerUnusable(
                f"{self._place.name} gave no answer when the key {key!r} was changed, and another process has changed "
                "it since; whether this change was made is unknown"
            )
        return result

    def _publish_drop(self, stream: JetStream, key: str, found: Found, id: Mapping[str, str]) -> None:
        """Replace a message by one that states that there is no item. On a full storage, the reserve makes room."""
        subject, header = self._names.item(key), Header(dropped=True, ttl=found.header.ttl)
        replaces = subject, found.stored.seq
        self._place.reserve.store(stream, self._names.table, subject, b"", {**header.dump(), **id}, replaces=replaces)

    def _scan(self, stream: JetStream, prefix: str, after: str, limit: int) -> list[tuple[str, Item]]:
        names = self._names
        subjects = list(stream.subjects(names.table, names.items(prefix)))
        known = (key for key in map(names.key, subjects) if key is not None)
        keys = sorted(key for key in known if key.startswith(prefix) and key > after)
        found: list[tuple[str, Item]] = []
        while keys and len(found) < limit:
            page, keys = keys[:_AT_ONCE], keys[_AT_ONCE:]
            items = zip(page, self._currents(stream, page), strict=True)
            found += [(key, one.item) for key, one in items if one is not None]
        return found[: max(limit, 0)]

    def _wait(self, stream: JetStream, known: Mapping[str, int], timeout: float) -> bool:
        keys, end = list(known), time.monotonic() + timeout
        while True:
            with Watch(stream, self._names, keys) as watch:
                while not watch.is_lost:
                    found = self._currents(stream, keys)
                    left = end - time.monotonic()
                    if (differ := _differ(known, found)) or left <= 0:
                        return differ
                    processes = {one.header.process for one in found if one and one.header.process}
                    with deaths(processes) as (descriptors, unwatched):
                        if not any(process.is_local and process.is_dead for process in processes):
                            watch.wait(descriptors, min(left, self._round(found, unwatched)))

    def _round(self, found: Sequence[Found | None], unwatched: bool) -> float:
        """Return the seconds after which an item may have ended without a notice."""
        now, most = self._clock(), self._place.lease / 3 if unwatched else _ROUND
        ends = (one.header.until - now for one in found if one and one.header.until is not None)
        return max(min(most, *ends, _ROUND), _LEAST_ROUND)


def _differ(known: Mapping[str, int], found: Sequence[Found | None]) -> bool:
    versions = [one.stored.seq if one else 0 for one in found]
    return versions != list(known.values())
