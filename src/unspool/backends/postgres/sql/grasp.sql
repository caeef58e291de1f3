-- Locks a task's row until the end of the transaction. Processes that would claim or change the task wait.
SELECT id FROM unspool.task WHERE id = %(id)s AND spooler = %(spooler)s AND state < 8 FOR UPDATE
