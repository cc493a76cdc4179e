"""``walkeeper backup``: takes a base backup; ``walkeeper backups``: lists them."""
