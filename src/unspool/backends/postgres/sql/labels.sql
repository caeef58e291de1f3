-- Returns the parts of the data that hold the variables, of all tasks.
SELECT CASE WHEN octet_length(data) < 4 THEN data
    ELSE substr(data, 1, 4 + get_byte(data, 1) + 256 * get_byte(data, 2)) END
FROM unspool.task WHERE spooler = %(spooler)s AND state < 8
