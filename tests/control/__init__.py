"""Tests of walkeeper/control/."""
