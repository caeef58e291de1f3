SELECT paused, period FROM unspool.spooler WHERE name = %(spooler)s
