"""Tests of walkeeper/page/."""
