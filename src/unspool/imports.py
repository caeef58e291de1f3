"""Imports that wait until they are needed, so that ``import unspool`` is quick, and that a fork waits for.

A thread that imports holds a lock of Python's, and a child that is forked meanwhile inherits that lock locked: its own
first send would wait for it for ever. So whatever is imported late is imported under one lock, and ``fork`` takes that
lock first. Only imports are made under it: a thread that held it and waited for anything else could wait for the fork.
"""

import logging  # noqa: F401  first: registered during a fork, its own hooks would let go of what they never took
import os
import threading

__all__ = ["late"]

late = threading.RLock()

os.register_at_fork(before=late.acquire, after_in_parent=late.release, after_in_child=late.release)
