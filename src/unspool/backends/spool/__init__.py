"""The spool directory: tasks as files in uWSGI's format. See ``layout`` for the places and ``store`` for the
protocols."""

from .store import SpoolBackend

__all__ = ["SpoolBackend"]
