-- Pauses, resumes or sets the period of a queue, and returns its switches. A null parameter changes nothing.
WITH changed AS (
    INSERT INTO unspool.spooler AS s (name, paused, period)
    VALUES (%(spooler)s, coalesce(%(paused)s::boolean, false), %(period)s::float8)
    ON CONFLICT (name) DO UPDATE
    SET paused = coalesce(%(paused)s::boolean, s.paused), period = coalesce(%(period)s::float8, s.period)
    RETURNING s.paused, s.period
)
SELECT paused, period, pg_notify(%(channel)s, '') FROM changed
