"""Single claims and ends, for tests of a backend."""

from .. import wire
from ..backends.base import Backend
from ..errors import Damaged
from ..message import Claim, Content, Disposition, End, Envelope, Record, Refusal
from ..retry import MAX_CRASHES
from ..seal import Seal, end_of_damaged, refusal_of_damaged

__all__ = ["claim_one", "content_of", "sealed", "settle_one"]

_SEAL = Seal()


def sealed(content: Content, seal: Seal = _SEAL) -> Envelope:
    """Return the envelope of a content, with a checksum and without a signature unless the seal has a key."""
    return seal.close(content)


def content_of(claim: Claim) -> Content:
    """Return the content of a claim. Its signature is not verified."""
    data, priority, due, _, _ = claim.envelope
    if claim.crashes >= MAX_CRASHES:
        return wire.load_vars(data)
    return wire.load(data, None, priority=priority, due=due)


def claim_one(backend: Backend, ref: str, seal: Seal = _SEAL) -> Claim | Refusal:
    """Return the claim of a task, or the refusal. As in a worker, a task with an invalid seal is set aside."""
    (claim,) = backend.exchange([], [ref]).taken
    if isinstance(claim, Claim):
        try:
            seal.open(claim.envelope, whole=claim.crashes < MAX_CRASHES)
        except Damaged as error:
            (until,) = backend.exchange([end_of_damaged(claim, error)], []).ended
            return refusal_of_damaged(error, until)
    return claim


def settle_one(backend: Backend, claim: Claim, disposition: Disposition, record: Record | None = None) -> float | None:
    """Settle a run. Return when the task must be checked again, or None if it has left the queue."""
    (until,) = backend.exchange([End(claim, disposition, record)], []).ended
    return until
