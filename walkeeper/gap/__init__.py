"""``walkeeper gap``."""
