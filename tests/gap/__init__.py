"""Tests of walkeeper/gap/."""
