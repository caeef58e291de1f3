"""The switches of a spooler: one message of the state stream."""

import contextlib
import json
from typing import Any

from ..base import Switches, check_period
from .cluster import Cluster
from .jetstream import JetStream
from .requests import Conflict
from .stored import Stored

__all__ = ["NatsSwitches"]


class NatsSwitches:
    """Implements ``base.Backend.switch``.

    :param period: the period until a user sets another.
    """

    def __init__(self, place: Cluster, period: float) -> None:
        self._place = place
        self._default_period = period

    def switch(self, *, paused: bool | None = None, period: float | None = None) -> Switches:
        if paused is None and period is None:
            return self._place.call(self.look)
        changes = {"paused": paused, "period": period}
        changed = {name: value for name, value in changes.items() if value is not None}
        return self._place.call(lambda stream: self._change(stream, changed))

    def look(self, stream: JetStream) -> Switches:
        """Return the current switches."""
        stored = self._last(stream)
        return self.of(stored.data if stored else b"")

    def of(self, data: bytes) -> Switches:
        """Return the switches in a message, with defaults for those that were never set."""
        found = _parse(data)
        return Switches(found["paused"], found["period"] or self._default_period)

    def _last(self, stream: JetStream) -> Stored | None:
        names = self._place.names
        return stream.last(names.state, names.switches)

    def _change(self, stream: JetStream, changed: dict[str, Any]) -> Switches:
        names = self._place.names
        while True:
            stored = self._last(stream)
            data = json.dumps(_parse(stored.data if stored else b"") | changed).encode()
            replaces = names.switches, stored.seq if stored else 0
            with contextlib.suppress(Conflict):  # another process has just changed a switch
                self._place.reserve.publish(stream, names.state, names.switches, data, replaces=replaces)
                return self.of(data)


def _parse(data: bytes) -> dict[str, Any]:
    """Return the switches in a message. The period is None if it was never set."""
    try:
        found: Any = json.loads(data)
        period = found.get("period")
        return {"paused": found.get("paused") is True, "period": None if period is None else check_period(period)}
    except (ValueError, TypeError, AttributeError):  # OptionRefused is a ValueError
        return {"paused": False, "period": None}
