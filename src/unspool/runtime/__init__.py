"""The processes that run tasks: a supervisor that imports no user code, and workers that do.

::

    directory ──events, scans──> Feed ──tickets──> pipe ══one at a time══> Worker ──claim, run, settle──> directory
                                  ▲    Supervisor                            │
                                  └────────── reports, a line each ──────────┘
                                                   │
                                                   └──> Recorder ──> history

All workers read tickets from one pipe, each when it is free, so the kernel hands out the work: no worker waits while
another holds what it has not begun. The supervisor holds the reading end too, and takes tickets back when something
more urgent arrives.
"""
