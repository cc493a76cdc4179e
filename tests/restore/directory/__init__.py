"""walkeeper restore."""
