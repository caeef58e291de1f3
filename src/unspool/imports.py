"""A lock for imports inside functions, which keep ``import unspool`` fast.

Python holds a lock while a thread imports a module. A child that is forked meanwhile inherits the held lock, and its
own imports would wait for it forever. So all late imports are made while holding ``late``, which is the lock that each
fork takes. Do nothing else while holding it: a thread that waits for something else could wait for the fork.
"""

from .forks import lock

__all__ = ["late"]

late = lock
