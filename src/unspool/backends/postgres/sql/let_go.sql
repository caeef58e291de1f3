-- Releases the locks of tasks in transfer.
SELECT bool_and(pg_advisory_unlock(%(locks)s + id)) FROM unnest(%(ids)s::int8[]) AS id
