"""Single claims and ends, for tests of a backend."""

from ..backends.base import Backend
from ..message import Claim, Disposition, End, Record, Refusal

__all__ = ["claim_one", "settle_one"]


def claim_one(backend: Backend, ref: str) -> Claim | Refusal:
    """Return the claim of a task, or the refusal."""
    (claim,) = backend.exchange([], [ref]).taken
    return claim


def settle_one(backend: Backend, claim: Claim, disposition: Disposition, record: Record | None = None) -> float | None:
    """Settle a run. Return when the task must be checked again, or None if it has left the queue."""
    (until,) = backend.exchange([End(claim, disposition, record)], []).ended
    return until
