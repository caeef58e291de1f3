-- Lets go of the locks of claims that somebody else has given back.
SELECT bool_and(pg_advisory_unlock(lock)) FROM unnest(%(locks)s::int8[]) AS lock
