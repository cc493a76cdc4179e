"""The status page: facts in, one HTML document out. Nothing here does I/O or looks at a clock."""
