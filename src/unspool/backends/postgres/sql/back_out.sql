-- A run that did not begin after all: a person has the task's lock just now.
UPDATE unspool.task SET begun = NULL, worker = NULL, attempts = attempts - 1
WHERE id = %(id)s AND fence = %(fence)s AND begun IS NOT NULL
RETURNING id
