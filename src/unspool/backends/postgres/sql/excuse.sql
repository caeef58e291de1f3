-- The worker of a run is ended on purpose. If the run ends with the worker, that is no crash. A negative worker number
-- says this.
UPDATE unspool.task SET worker = -abs(worker)
WHERE id = %(id)s AND spooler = %(spooler)s AND begun IS NOT NULL
RETURNING id
