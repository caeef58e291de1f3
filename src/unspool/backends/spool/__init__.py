"""The spool directory backend: tasks as files in uWSGI's format. See ``layout`` for its parts, ``sending`` and
``claims`` for the protocols."""

from .store import SpoolBackend

__all__ = ["SpoolBackend"]
