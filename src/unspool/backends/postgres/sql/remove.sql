DELETE FROM unspool.task WHERE id = %(id)s AND spooler = %(spooler)s RETURNING id
