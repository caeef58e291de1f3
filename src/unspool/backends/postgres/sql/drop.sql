-- A process says itself that it is no more.
WITH gone AS (
    DELETE FROM unspool.process WHERE key = %(key)s
)
SELECT pg_advisory_unlock(%(processes)s + %(key)s)
