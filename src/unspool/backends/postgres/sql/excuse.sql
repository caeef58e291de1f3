-- A run whose worker is ended by order is nobody's from now on: should it end with that worker, it is no crash.
UPDATE unspool.task SET worker = NULL
WHERE id = %(id)s AND spooler = %(spooler)s AND begun IS NOT NULL
RETURNING id
