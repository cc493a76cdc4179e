"""Tests of walkeeper/store/."""
