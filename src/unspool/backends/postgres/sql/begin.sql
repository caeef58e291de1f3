-- Prefetches several tasks, as next.sql claims one. Their fences are odd. Tasks that must be claimed
-- alone are left out. Parameters:
--   $1 the time, null for the server's; $2 the key of a claim's lock, without its fence;
--   $3 the tasks, $4 their queue, $5 the worker, $6 its supervisor (or null)
WITH time AS (
    SELECT coalesce($1::float8, extract(epoch FROM statement_timestamp())::float8) AS now
)
UPDATE unspool.task SET begun = time.now, attempts = attempts + 1,
    fence = 2 * (random() * 1073741822)::int4 + 1, worker = $5::int4,
    owner = coalesce($6::int4, owner, $5::int4)
FROM time, unnest($3::int8[]) AS given (id)
WHERE task.id = given.id AND spooler = $4::text AND state < 2 AND begun IS NULL AND fence >= 0 AND due <= time.now
-- as in next.sql, a large task is fetched later
RETURNING task.id, CASE WHEN octet_length(data) <= 262144 THEN data END, attempts, crashes, fence, rank, unhandled, due, pg_try_advisory_lock($2::int8 + fence) AS locked
