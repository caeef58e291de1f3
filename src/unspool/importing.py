"""Whether an application is being imported. A task that it sends then is sent again at each start of a worker."""

__all__ = ["app", "sent_at"]

app = ""
"""The application that is being imported; empty if there is none, or if it has already sent a task."""

sent_at = ""
"""The file and line of the first task that it has sent; empty if it has sent none."""
