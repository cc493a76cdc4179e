"""Tests of walkeeper/status/."""
