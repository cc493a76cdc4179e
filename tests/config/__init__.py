"""Tests of walkeeper/config/."""
