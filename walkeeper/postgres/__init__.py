"""One PostgreSQL server, running or not: over SQL, by its data directory, and through pg_receivewal."""
