"""The processes that run tasks: a supervisor that imports no user code, and workers that do.

::

    directory ──events, scans──> Feed ──tickets──> pipe ══one at a time══> Worker ──claim, run, settle──> directory
                                  ▲    Supervisor                            │
                                  └────────── reports, a line each ──────────┘
                                                   │
                                                   └──> Recorder ──> history

All workers read tickets from one pipe, each when it is free, so the kernel distributes the work, and no worker is idle
while another one holds a task that it has not begun. The supervisor also has the reading end, and takes tickets back
when a more urgent task arrives.
"""
