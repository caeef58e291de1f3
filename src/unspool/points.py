"""Failpoints: named points on the way of a task, at which a test can wait or kill.

In production a point is a call of a function that does nothing: 0.05 µs. A test puts its own in the place of ``reach``,
in its own process or in one that it starts; nothing in the environment does. ``NAMES`` is the whole of them, in the
order in which a task meets them; ``tests/faults`` kills at each.
"""

from collections.abc import Callable

__all__ = ["NAMES", "reach"]

NAMES = (
    # enqueue
    "send.created",  # the draft is there, empty
    "send.written",  # whole, but perhaps not on the disk
    "send.synced",  # on the disk, under its draft's name
    "send.renamed",  # in its place, seen by everybody
    "send.kept",  # in its place, come what may; the caller does not know yet
    # claim
    "claim.opened",
    "claim.locked",
    "claim.counted",  # the attempt is counted
    "claim.read",  # looked at and found good
    # run
    "run.begin",
    "run.end",  # the task has done its work, and no process knows yet
    # settling what is done
    "ack.begin",
    "ack.removed",  # gone from the directory; the history does not know
    # settling what is to run again
    "retry.begin",
    "retry.counted",  # no longer marked as running
    "retry.dated",  # due later
    # setting aside
    "bury.begin",
    "bury.noted",  # the reason is written
    "bury.moved",
    # all of them
    "settled",  # the lock is released
    "reported",  # the supervisor can know
    # an item of the key-value table
    "put.created",
    "put.written",
    "put.locked",
    "put.renamed",  # in the table, but perhaps not on the disk
    "put.synced",
    "drop.locked",
    "drop.removed",
    # carried to another queue
    "leave.renamed",  # out of the way of workers
    "carry.begun",  # all of a batch are
    "accept.written",
    "accept.renamed",
    "carry.accepted",  # there, and not yet run
    "left.renamed",
    "carry.noted",  # the source knows where they are
    "confirm.renamed",
    "carry.confirmed",  # run there like any other
    "gone.removed",
    "carry.done",
)


def _nothing(_name: str) -> None:
    pass


reach: Callable[[str], None] = _nothing
