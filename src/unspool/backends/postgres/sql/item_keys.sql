-- Returns the keys of items in a range, in order. No key contains a '~', which sorts after all characters of keys.
SELECT key FROM unspool.item
WHERE spooler = %(spooler)s AND key > %(after)s::text
    AND key >= %(prefix)s::text AND key < %(prefix)s::text || '~'
    AND coalesce(until > coalesce(%(clock)s::float8, extract(epoch FROM statement_timestamp())::float8), true)
ORDER BY key
LIMIT %(limit)s
