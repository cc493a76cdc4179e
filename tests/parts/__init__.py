"""Real servers for tests, demo and benchmarks: PostgreSQL, etcd, Patroni, an S3 server. Each is ended by its own pid."""
