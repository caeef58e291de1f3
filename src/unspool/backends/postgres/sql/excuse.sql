-- A run whose worker is ended by order: should it end with that worker, it is no crash. A worker's number below 0 says so.
UPDATE unspool.task SET worker = -abs(worker)
WHERE id = %(id)s AND spooler = %(spooler)s AND begun IS NOT NULL
RETURNING id
