-- Deletes an item, of this version if one is given, and wakes those that wait for its key. An item with the life of
-- another process is deleted only if %(known)s, which means that the process is known to be alive.
WITH sure AS (
    SELECT set_config('synchronous_commit', 'on', true)
), time AS (
    SELECT coalesce(%(clock)s::float8, extract(epoch FROM statement_timestamp())::float8) AS now
), dropped AS (
    DELETE FROM unspool.item USING sure, time
    WHERE spooler = %(spooler)s AND key = %(key)s AND version = coalesce(%(expect)s::int8, version)
        AND coalesce(until > now, true) AND (holder IS NULL OR holder = %(mine)s::int4 OR %(known)s::boolean)
    RETURNING key
)
SELECT pg_notify(%(channel)s, key) FROM dropped
