"""The seal of the tasks of one spooler: which tasks it accepts, and their signatures.

Backends store bytes. What those bytes may contain, and who may have written them, is decided here for all backends: a
task is sealed before it is sent, and its seal is verified before anything in it is decoded.
"""

import os
from typing import NamedTuple

from . import codec, wire
from .errors import Damaged, PayloadRefused, Unsigned
from .message import Bury, Claim, Content, End, Envelope, Refusal, RefusalKind
from .printable import printable
from .signing import Signer

__all__ = ["Seal", "end_of_damaged", "lack_of_memory", "refusal_of_damaged"]

_UNSIGNED_PICKLE = (
    "it is pickled, so the worker would run code from it, and no secret key is set to verify its sender: set "
    'UNSPOOL_SECRET_KEY for senders and workers, or give the task serializer="json"'
)


class Seal(NamedTuple):
    """How the tasks of a spooler are sealed and opened.

    :param name: the name of the spooler.
    :param signer: signs tasks, and refuses unsigned ones; None if no secret key is set.
    :param pickles: False to refuse pickles, as on a server, where others may write too, without a secret key.
    :param forwarded: True if the tasks are forwarded to a server that refuses pickles. They run here nevertheless.
    """

    name: str = ""
    signer: Signer | None = None
    pickles: bool = True
    forwarded: bool = False

    def close(self, content: Content) -> Envelope:
        """Return the envelope of a content.

        :raises PayloadRefused: if the spooler does not accept pickles, and this is one.
        :raises Damaged: if the variables exceed the 65535 bytes that the format can hold.
        """
        self.check(content)
        vars, body, priority, due, _ = content
        return Envelope(wire.dump(vars, body, self.signer), priority, due, codec.task_label(vars))

    def check(self, content: Content) -> None:
        """Check that the spooler accepts a payload.

        :raises PayloadRefused: if it does not accept pickles, and this is one.
        """
        if (not self.pickles or self.forwarded) and codec.is_pickled(content):
            which = f"{self.name}, which is forwarded," if self.forwarded else self.name
            raise PayloadRefused(f"spooler {which} does not accept this payload: {_UNSIGNED_PICKLE}")

    def open(self, envelope: Envelope, *, whole: bool = True) -> Content:
        """Return the content of an envelope. Nothing in it is decoded.

        :param whole: False for the variables alone, which are not verified.
        :raises Damaged: if the bytes are cut short, inconsistent, or do not match their checksum.
        :raises Unsigned: if they are not signed as required.
        """
        data, priority, due, _, _ = envelope
        if not whole:
            return wire.load_vars(data)
        content = wire.load(data, self.signer, priority=priority, due=due)
        if not self.pickles and codec.is_pickled(content):
            raise Unsigned(_UNSIGNED_PICKLE)
        return content


def end_of_damaged(claim: Claim, error: Damaged) -> End:
    """Return the end of a claim whose content is damaged or not signed as required."""
    return End(claim, Bury(str(error), corrupt=True, begun=False, partial=not isinstance(error, Unsigned)))


def refusal_of_damaged(error: Damaged, until: float | None) -> Refusal:
    """Return the refusal to report once that end is settled.

    :param until: when to check the task again, because another program may still be writing it.
    """
    return Refusal(RefusalKind.CORRUPT, None, str(error)) if until is None else Refusal(RefusalKind.EARLY, until)


def lack_of_memory(claim: Claim) -> str:
    """Return the reason why this process cannot run a task."""
    return f"task {printable(claim.id)} does not fit into the memory of process {os.getpid()}"
