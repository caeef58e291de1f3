"""The PostgreSQL backend: tasks in a table, claims as session locks, wake-ups by NOTIFY."""

from .backend import PostgresBackend

__all__ = ["PostgresBackend"]
