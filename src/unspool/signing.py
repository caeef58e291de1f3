"""Signatures: a task runs only if its sender had the secret key.

All variables (the name of the task, its priority, its due time, the queue) and the body are signed together. The key of
a signature is derived from the secret key and the name of the queue, so a task for one queue is not accepted in
another. See ``docs/decisions/0006-signed-tasks.md``.
"""

from collections.abc import Sequence

from .errors import OptionRefused
from .imports import late

__all__ = ["MIN_KEY", "SIGNATURE_SIZE", "Signer", "check_keys"]

MIN_KEY = 32
"""The minimum number of characters of a secret key."""
SIGNATURE_SIZE = 43
"""The number of bytes of a signature: HMAC-SHA-256 in base64 without padding."""

_HOW = "make one with: python3 -c 'import secrets; print(secrets.token_urlsafe(32))'"


class Signer:
    """Signs and verifies the tasks of one queue.

    :param keys: the secret keys; the first signs, all verify.
    :param queue: the name of the queue; for a directory its last component, so that the directory can be anywhere.
    """

    def __init__(self, keys: Sequence[str], queue: str) -> None:
        with late:
            import hashlib

            import itsdangerous  # takes 30 ms, which are needed only with a key

        self.queue = queue.encode("utf-8", "surrogateescape")
        self._signer = itsdangerous.Signer(
            list(reversed(keys)),  # itsdangerous signs with the last one
            salt=b"unspool.task:" + self.queue,
            key_derivation="hmac",
            digest_method=hashlib.sha256,
        )
        self._digest = hashlib.sha256

    def sign(self, head: bytes, body: bytes) -> bytes:
        """Return the signature of the variables and the body."""
        return self._signer.get_signature(self._content(head, body))

    def verify(self, head: bytes, body: bytes, signature: bytes) -> bool:
        """Return whether the signature was made with one of the keys, in a time that does not depend on where it
        differs.
        """
        return self._signer.verify_signature(self._content(head, body), signature)

    def _content(self, head: bytes, body: bytes) -> bytes:
        """Return the bytes to sign: the variables and a digest of the body, whose fixed size makes them unambiguous."""
        return head + self._digest(body).digest()


def check_keys(keys: Sequence[object]) -> tuple[str, ...]:
    """Return valid secret keys.

    :raises OptionRefused: if there is none, or one is empty or too short. The message quotes no key.
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
