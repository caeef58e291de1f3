"""Other task queues for Python: each module has the tasks of one queue, and is their caller when it is run as a
program.

``BENCH_SPOOL`` is the directory that the queue may use, ``BENCH_REDIS`` the port of the Redis that it may use.
"""
