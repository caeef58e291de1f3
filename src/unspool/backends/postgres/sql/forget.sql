-- Releases the locks of prefetched claims that were given back by the supervisor.
SELECT bool_and(pg_advisory_unlock(lock)) FROM unnest(%(locks)s::int8[]) AS lock
