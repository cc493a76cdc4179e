"""Measurements that anyone can repeat, on real servers. ``make kills`` and ``make bench``; the results: docs/benchmarks.md."""
