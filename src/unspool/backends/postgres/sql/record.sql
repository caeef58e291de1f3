-- Adds runs without a settlement to the history: crashes, and tasks that never ran.
INSERT INTO unspool.run (spooler, id, task, verdict, attempt, started, duration, pid, error)
SELECT %(spooler)s, r.* FROM unnest(%(ids)s::text[], %(tasks)s::text[], %(verdicts)s::text[], %(attempts)s::int4[],
    %(starts)s::float8[], %(durations)s::float8[], %(pids)s::int4[], %(errors)s::text[]) AS r
