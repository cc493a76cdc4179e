"""Measurements that anyone can repeat, on real servers, by ``make kills`` and ``make bench``: docs/internals/benchmarks.md."""
