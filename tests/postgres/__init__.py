"""Tests of walkeeper/postgres/."""
