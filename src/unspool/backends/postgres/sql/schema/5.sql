-- Version 5: the key-value table of each queue.

CREATE TABLE unspool.item (
    version bigint GENERATED ALWAYS AS IDENTITY,    -- a new number for each change; its sequence never repeats one
    until double precision,                         -- the time from which it is absent; null if none
    holder integer,                                 -- the process with which it ends; null if none
    spooler text NOT NULL,
    key text COLLATE "C" NOT NULL,
    value bytea NOT NULL,
    PRIMARY KEY (spooler, key)
) WITH (
    fillfactor = 50,
    autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000,
    autovacuum_vacuum_insert_threshold = -1,
    autovacuum_vacuum_cost_delay = 0
);

CREATE INDEX item_until ON unspool.item (spooler, until) WHERE until IS NOT NULL;
CREATE INDEX item_holder ON unspool.item (spooler, holder) WHERE holder IS NOT NULL;
