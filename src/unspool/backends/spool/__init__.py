"""The spool directory backend: tasks as files in uWSGI's format. See ``layout`` for paths and ``store`` for
protocols."""

from .store import SpoolBackend

__all__ = ["SpoolBackend"]
