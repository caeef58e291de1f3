"""Signatures: a task runs only if its sender had the secret key.

Signed are all variables (the name of the task, its priority, its due time, the queue) and the body, together. The key
of a signature is derived from the secret key and the queue's name, so a task that was sent to one queue is none in
another. See ``docs/decisions/0006-signed-tasks.md``.
"""

from collections.abc import Sequence

from .errors import OptionRefused
from .imports import late

__all__ = ["MIN_KEY", "SIGNATURE_SIZE", "Signer", "check_keys"]

MIN_KEY = 32
"""The fewest characters that a secret key may have."""
SIGNATURE_SIZE = 43
"""Bytes of a signature: HMAC-SHA-256 in base64 without padding."""

_HOW = "make one with: python3 -c 'import secrets; print(secrets.token_urlsafe(32))'"


class Signer:
    """Signs the tasks of one queue, and tells whether they are signed.

    :param keys: the secret keys; the first signs, all verify.
    :param queue: the queue's name: of a directory its last component, so that it may lie anywhere.
    """

    def __init__(self, keys: Sequence[str], queue: str) -> None:
        with late:
            import hashlib

            import itsdangerous  # 30 ms that are needed with a key only

        self.queue = queue.encode("utf-8", "surrogateescape")
        self._signer = itsdangerous.Signer(
            list(reversed(keys)),  # its last one signs
            salt=b"unspool.task:" + self.queue,
            key_derivation="hmac",
            digest_method=hashlib.sha256,
        )
        self._digest = hashlib.sha256

    def sign(self, head: bytes, body: bytes) -> bytes:
        """Return the signature of variables and body."""
        return self._signer.get_signature(self._content(head, body))

    def verify(self, head: bytes, body: bytes, signature: bytes) -> bool:
        """Return whether the signature is one of theirs by any of the keys. Takes as long wherever it differs."""
        return self._signer.verify_signature(self._content(head, body), signature)

    def _content(self, head: bytes, body: bytes) -> bytes:
        """Return what is signed: short whatever the body's size, and unambiguous, for a digest has a fixed one."""
        return head + self._digest(body).digest()


def check_keys(keys: Sequence[object]) -> tuple[str, ...]:
    """Return the secret keys, if they can be used as such.

    :raises OptionRefused: if there is none, or one is empty or too short. No key is quoted.
    """
    if not keys:
        raise OptionRefused(f"it is empty; {_HOW}, or unset it to work without signatures")
    for number, key in enumerate(keys, 1):
        which = "the key" if len(keys) == 1 else f"key {number} of {len(keys)}"
        if not isinstance(key, str):
            raise OptionRefused(f"{which} is a {type(key).__name__}; a key is a string")
        if (length := len(key.strip())) < MIN_KEY:
            size = f"has {length} characters" if length else "is empty"
            raise OptionRefused(f"{which} {size}; it must have {MIN_KEY} or more; {_HOW}")
    return tuple(str(key).strip() for key in keys)
