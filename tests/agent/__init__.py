"""Tests of walkeeper/agent/."""
