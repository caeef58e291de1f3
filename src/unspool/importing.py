"""Whether an application is being imported: what it sends then is sent again at each start of a worker."""

__all__ = ["app", "sent_at"]

app = ""
"""The application that is being imported; empty if none is, or if it has sent a task already."""

sent_at = ""
"""The file and line where it has sent its first task; empty if it has sent none."""
