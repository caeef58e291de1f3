"""A spool directory inside the uWSGI that runs its tasks.

``server`` has what concerns the ``uwsgi`` module, ``backend`` the directory as its processes see it. Nothing is
imported here, because senders outside uWSGI use ``wakefile`` alone.
"""
