"""Tests of walkeeper/restore/."""
