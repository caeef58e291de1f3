"""unspool on PostgreSQL and on NATS JetStream beside queues that others made for the same servers."""
