-- Returns items by their keys, with the seconds that are left to them and the processes with which they end. The time at
-- which a process is first missed is stored in its row, because the next statement may come from another process.
WITH held AS MATERIALIZED (
    SELECT (classid::bigint << 32) | objid::bigint AS lock FROM pg_locks
    WHERE locktype = 'advisory' AND granted AND objsubid = 1
        AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
), time AS (
    SELECT coalesce(%(clock)s::float8, extract(epoch FROM statement_timestamp())::float8) AS now
), found AS MATERIALIZED (
    SELECT key, value, version, until - now AS rest, holder,
        -- The server's locks are read only if there is an item with a holder.
        CASE WHEN holder IS NOT NULL THEN %(processes)s + holder NOT IN (SELECT lock FROM held) ELSE false END AS missed
    FROM unspool.item, time
    WHERE spooler = %(spooler)s AND key = ANY(%(keys)s::text[]) AND coalesce(until > now, true)
), unnoted AS MATERIALIZED (
    SELECT key FROM unspool.process WHERE role = 'holder' AND key IN (SELECT holder FROM found WHERE missed)
    FOR UPDATE SKIP LOCKED
), noted AS (
    UPDATE unspool.process SET role = 'missed holder', since = now() FROM unnoted WHERE process.key = unnoted.key
)
SELECT found.key, value, version, rest, holder, missed,
    process.role IS NULL OR (process.role = 'missed holder'
        AND greatest(process.since, pg_postmaster_start_time()) <= now() - make_interval(secs => %(grace)s)),
    process.host, process.pid
FROM found LEFT JOIN unspool.process ON process.key = holder
