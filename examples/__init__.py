"""Examples. ``python -m examples.demo`` is the one that runs."""
