-- Lets go of the locks of tasks that are under way.
SELECT bool_and(pg_advisory_unlock(%(locks)s + id)) FROM unnest(%(ids)s::int8[]) AS id
