"""restore-wal: the light client, what it does by itself (``command``), and what works ahead of it (``serving``, ``host``).

Nothing is imported here, because PostgreSQL waits for the client.
"""
