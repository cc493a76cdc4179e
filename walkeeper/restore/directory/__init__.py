"""``walkeeper restore``: a base backup from the archive into a data directory that starts, and replays up to the target."""
