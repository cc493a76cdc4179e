"""In-memory twins of walkeeper's seams, held to the same suites as the real ones."""
