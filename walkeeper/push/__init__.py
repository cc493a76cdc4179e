"""``archive_command``: one file that PostgreSQL hands over, and 0 only when the archive provably has it."""
