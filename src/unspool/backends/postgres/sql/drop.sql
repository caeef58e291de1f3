-- Removes the registration of a process that ends. If it has left tasks, its row stays for the processes that free
-- them.
WITH gone AS (
    DELETE FROM unspool.process WHERE key = %(key)s AND NOT EXISTS (SELECT FROM unspool.task WHERE owner = %(key)s)
), ended AS (
    UPDATE unspool.process SET role = 'ended' WHERE key = %(key)s
        AND EXISTS (SELECT FROM unspool.task WHERE owner = %(key)s)
)
SELECT pg_advisory_unlock(%(processes)s + %(key)s)
