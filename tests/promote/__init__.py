"""Tests of walkeeper/promote/."""
