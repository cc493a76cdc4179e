"""Tests of walkeeper/push/."""
