"""unspool and uWSGI's own spooler, measured on the same file system in the same run; see ``make bench``."""
