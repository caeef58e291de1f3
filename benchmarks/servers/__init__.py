"""unspool on PostgreSQL and on NATS JetStream, compared with other queues for the same servers."""
