"""Measurements that anyone can repeat, on real servers. ``make torture`` and ``make bench``; the results: docs/benchmarks.md."""
