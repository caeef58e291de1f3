"""Other task queues for Python, as programs: each module is one queue's tasks, and run as a program, their caller.

``BENCH_SPOOL`` is the directory that the queue may use, ``BENCH_REDIS`` the port of the Redis that it may use.
"""
