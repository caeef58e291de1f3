"""The keys of unique tasks.

The subject of a task with a key ends with the key. A send publishes the task on the condition that no message has come
under this key since it looked. So one publish takes the key and stores the task, and nothing else is stored for a key.
A key is free once its task has left the stream of tasks in any way. A key may also be free while its task has a
message: if its time is over, or if the task has started and that frees the key.
"""

from ...message import Unique
from ..base import Clock
from .jetstream import JetStream
from .names import Names, key_of
from .runs import Run
from .stored import Facts, Stored
from .tasks import Tasks

__all__ = ["Keys", "unique_of"]


class Keys:
    """Find the tasks that have keys."""

    def __init__(self, names: Names, tasks: Tasks, clock: Clock) -> None:
        self._names = names
        self._tasks = tasks
        self._clock = clock

    def holder(self, stream: JetStream, key: str) -> tuple[str | None, tuple[str, int]]:
        """Return the token of the task that has a key, or None. Also return the condition for a publish that nothing
        has changed since."""
        names = self._names
        subjects = names.keyed(key)
        last = stream.last(names.tasks, subjects)  # first, so that the condition covers what is read below
        holders = []
        for token in {names.place(subject)[2] for subject in stream.subjects(names.tasks, subjects)} if last else ():
            stored, run = self._tasks.look(stream, token)
            if stored is not None and self._holds(stored, token, run):
                holders.append((stored.seq, token))
        return min(holders)[1] if holders else None, (subjects, last.seq if last else 0)

    def _holds(self, stored: Stored, token: str, run: Run | None) -> bool:
        unique = unique_of(token, stored.facts)
        if unique is None or unique.until <= self._clock():
            return False
        return run is None or not (unique.start and run.is_of(stored) and run.attempts > 0)


def unique_of(token: str, facts: Facts) -> Unique | None:
    """Return the key of a task that waits. Return None if it has none, or if an earlier run has freed it."""
    key = key_of(token)
    if key is None or (facts.key_start and (facts.attempts or facts.unhandled)):
        return None
    unique = Unique(key, facts.key_start)
    return unique if facts.key_until is None else unique._replace(until=facts.key_until)
