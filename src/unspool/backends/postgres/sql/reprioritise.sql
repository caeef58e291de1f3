-- Gives a task another priority. A supervisor that has reserved it starts it at its former turn.
WITH changed AS (
    UPDATE unspool.task SET rank = %(rank)s WHERE id = %(id)s AND spooler = %(spooler)s RETURNING id
)
SELECT id, pg_notify(%(channel)s, '') FROM changed
