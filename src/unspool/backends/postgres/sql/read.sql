-- Returns the size and content of a large task that was started: all of it, only the bytes that its variables can take,
-- or none if it is too large.
SELECT octet_length(data), CASE WHEN octet_length(data) > %(most)s::int8 THEN NULL WHEN %(whole)s THEN data
    ELSE substr(data, 1, %(head)s) END
FROM unspool.task WHERE id = %(id)s AND fence = %(fence)s AND begun IS NOT NULL
