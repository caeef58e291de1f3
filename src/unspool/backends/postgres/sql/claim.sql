-- Claims tasks: counts the attempts, and takes each claim's lock, which lives as long as the session. A task that is
-- claimed alone has an even fence, so that its end with its worker is a crash. Of several with odd fences, only one may
-- have run; tasks that must be claimed alone (their fence is -1) are left out. Parameters:
--   $1 the time, null for the server's; $2 the key of a claim's lock, without its fence;
--   $3 the tasks, $4 their queue, $5 the worker, $6 its supervisor (or null); $7 1 for several, 0 for one alone
WITH time AS (
    SELECT coalesce($1::float8, extract(epoch FROM statement_timestamp())::float8) AS now
)
UPDATE unspool.task SET begun = time.now, attempts = attempts + 1,
    fence = 2 * (random() * 1073741822)::int4 + $7::int4, worker = $5::int4, owner = coalesce($6::int4, owner, $5::int4)
FROM time, unnest($3::int8[]) AS given (number)
WHERE id = number AND spooler = $4::text AND state < 2 AND begun IS NULL AND due <= time.now
    AND (fence >= 0 OR $7::int4 = 0)
-- A large task is fetched after its claim is stored. If it takes all of the worker's memory, that counts as a crash.
RETURNING id, CASE WHEN octet_length(data) <= 262144 THEN data END, attempts, crashes, fence, rank, unhandled, due,
    pg_try_advisory_lock($2::int8 + fence)
