"""Tests of walkeeper/lib/."""
