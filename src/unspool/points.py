"""Failpoints: named points in the code at which a test can wait, or kill the process.

In production, a point is a call of a function that does nothing, which takes 0.05 µs. A test replaces ``reach``, in its
own process or in one that it starts. No environment variable can do this. ``NAMES`` lists all points in the order in
which a task reaches them, and ``tests/faults`` kills a process at each.
"""

from collections.abc import Callable

__all__ = ["NAMES", "reach"]

NAMES = (
    # enqueue
    "send.created",  # the draft exists, and is empty
    "send.written",  # complete, but perhaps not on the disk
    "send.synced",  # on the disk, under the name of the draft
    "key.locked",  # the lock of a unique task's key
    "key.written",  # the key names the task, which is not visible yet
    "key.synced",
    "send.renamed",  # in its place, visible to all processes
    "send.kept",  # in its place for good; the caller does not know yet
    # claim
    "claim.opened",
    "claim.locked",
    "claim.counted",  # the attempt is counted
    "claim.read",  # verified
    # run
    "run.begin",
    "run.end",  # the task has ended, and no other process knows yet
    # settle a task that is done
    "ack.begin",
    "ack.removed",  # removed from the directory, and not in history yet
    # settle a task that runs again
    "retry.begin",
    "retry.counted",  # no longer marked as running
    "retry.dated",  # due later
    # set aside
    "bury.begin",
    "bury.noted",  # the reason is written
    "bury.moved",
    # every run
    "settled",  # the lock is released
    "reported",  # the supervisor can know
    # another priority
    "reprioritise.begin",
    "reprioritise.renamed",
    # an item of the key-value table
    "put.created",
    "put.written",
    "put.locked",
    "put.renamed",  # in the table, but perhaps not on the disk
    "put.synced",
    "drop.locked",
    "drop.removed",
    # transfer to another queue
    "leave.renamed",  # no worker can find it
    "carry.begun",  # no worker can find any task of the batch
    "accept.written",
    "accept.renamed",
    "carry.accepted",  # at the destination, and not run yet
    "left.renamed",
    "carry.noted",  # the source has recorded the destination
    "confirm.renamed",
    "carry.confirmed",  # ordinary tasks of the destination
    "gone.removed",
    "carry.done",
)


def _nothing(_name: str) -> None:
    pass


reach: Callable[[str], None] = _nothing
