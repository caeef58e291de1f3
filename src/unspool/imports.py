"""A lock for imports inside functions, which keep ``import unspool`` fast.

Python holds a lock while a thread imports a module. A child that is forked meanwhile inherits the held lock, and its
own imports would wait for it forever. So all late imports are made while holding ``late``, and ``fork`` acquires it
first. Do nothing else while holding it: a thread that waits for something else could wait for the fork.
"""

import logging  # noqa: F401  first: if imported during a fork, its hooks would release locks that they never took
import os
import threading

__all__ = ["late"]

late = threading.RLock()

os.register_at_fork(before=late.acquire, after_in_parent=late.release, after_in_child=late.release)
