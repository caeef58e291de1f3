"""The former name of ``settings`` and ``registry``, for programs that import it."""

from .registry import backend
from .settings import Settings, configure

__all__ = ["Settings", "backend", "configure"]
