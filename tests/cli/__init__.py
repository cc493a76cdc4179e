"""Tests of walkeeper/cli/."""
