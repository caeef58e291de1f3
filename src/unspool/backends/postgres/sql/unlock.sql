-- Releases the locks of claims that were lost.
SELECT bool_and(pg_advisory_unlock(lock)) FROM unnest(%(locks)s::int8[]) AS lock
