-- Withdraws a run that did not start, because a user's command holds the task's lock.
UPDATE unspool.task SET begun = NULL, worker = NULL, attempts = attempts - 1
WHERE id = %(id)s AND fence = %(fence)s AND begun IS NOT NULL
RETURNING id
