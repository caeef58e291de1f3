-- Replaces an item of this version, and wakes those that wait for its key. An item with the life of another process is
-- replaced only if %(known)s, which means that the process is known to be alive.
WITH sure AS (
    SELECT set_config('synchronous_commit', 'on', true)
), time AS (
    SELECT coalesce(%(clock)s::float8, extract(epoch FROM statement_timestamp())::float8) AS now
), put AS (
    UPDATE unspool.item SET value = %(value)s::bytea, holder = %(holder)s::int4, version = DEFAULT,
        until = %(until)s::float8 + CASE WHEN abs(now - %(local)s::float8) < 1 THEN 0 ELSE now - %(local)s::float8 END
    FROM sure, time
    WHERE spooler = %(spooler)s AND key = %(key)s AND version = %(expect)s::int8 AND coalesce(item.until > now, true)
        AND (item.holder IS NULL OR item.holder = %(mine)s::int4 OR %(known)s::boolean)
    RETURNING version
)
SELECT version, pg_notify(%(channel)s, %(key)s) FROM put
