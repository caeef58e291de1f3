-- Marks a run whose worker is ended on purpose, so that this is not a crash. The mark is a negative worker number.
UPDATE unspool.task SET worker = -abs(worker)
WHERE id = %(id)s AND spooler = %(spooler)s AND begun IS NOT NULL
RETURNING id
