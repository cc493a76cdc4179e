"""Tests of walkeeper/verify/."""
