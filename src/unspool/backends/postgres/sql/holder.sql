-- Returns the task that has the key of another one.
SELECT holder.id FROM unspool.task JOIN unspool.task AS holder ON holder.spooler = task.spooler AND holder.key = task.key
WHERE task.id = %(id)s AND task.spooler = %(spooler)s AND holder.id <> task.id AND holder.state IN (0, 1, 4, 5)
