"""``walkeeper verify --restore``: a backup that was really restored, started and looked at, and what is remembered of that."""
