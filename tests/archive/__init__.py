"""Tests of walkeeper/archive/."""
