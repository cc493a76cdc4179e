"""``walkeeper status``, once or ``--watch``."""
