-- A person's hand on a task, until the end of the transaction: whoever would claim or change it waits.
SELECT id FROM unspool.task WHERE id = %(id)s AND spooler = %(spooler)s AND state < 8 FOR UPDATE
