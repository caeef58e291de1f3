"""NATS JetStream as a ground: four streams a spooler, and the server's own consumers to share the work out.

``docs/decisions/0008-nats.md`` argues it; ``docs/guide/nats.md`` tells what it keeps and what it does not.
"""

from .backend import NatsBackend

__all__ = ["NatsBackend"]
