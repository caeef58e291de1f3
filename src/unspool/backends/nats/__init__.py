"""The NATS JetStream backend. It uses four streams per spooler and shares work through the server's consumers.

``docs/decisions/0008-nats.md`` explains the design. ``docs/guide/nats.md`` states what the backend guarantees.
"""

from .backend import NatsBackend

__all__ = ["NatsBackend"]
