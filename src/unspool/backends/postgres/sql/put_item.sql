-- Puts an item, or does nothing if %(absent)s and there is one, and wakes those that wait for its key. Deletes some
-- items whose time is over. The change is synced whatever the session's setting, because a crash could otherwise return
-- the sequence to a version that a process has seen.
WITH sure AS (
    SELECT set_config('synchronous_commit', 'on', true)
), time AS (
    SELECT coalesce(%(clock)s::float8, extract(epoch FROM statement_timestamp())::float8) AS now
), put AS (
    INSERT INTO unspool.item AS i (spooler, key, value, until, holder)
    -- The time is by this program's clock. It is converted if that clock differs from the server's by a second.
    SELECT %(spooler)s::text, %(key)s::text, %(value)s::bytea,
        %(until)s::float8 + CASE WHEN abs(now - %(local)s::float8) < 1 THEN 0 ELSE now - %(local)s::float8 END,
        %(holder)s::int4
    FROM sure, time
    ON CONFLICT (spooler, key) DO UPDATE
    SET value = excluded.value, until = excluded.until, holder = excluded.holder, version = DEFAULT
    WHERE NOT %(absent)s::boolean OR i.until <= (SELECT now FROM time)
    RETURNING version
), past AS MATERIALIZED (
    SELECT key FROM unspool.item
    -- The count makes this follow the put. Otherwise two puts could wait for each other.
    WHERE (SELECT count(*) FROM put) >= 0 AND spooler = %(spooler)s
        AND until <= (SELECT now FROM time) AND key <> %(key)s
    ORDER BY until
    LIMIT 100
    FOR UPDATE SKIP LOCKED
), swept AS (
    DELETE FROM unspool.item USING past WHERE spooler = %(spooler)s AND item.key = past.key
)
SELECT version, pg_notify(%(channel)s, %(key)s) FROM put
