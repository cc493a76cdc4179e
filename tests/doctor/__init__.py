"""Tests of walkeeper/doctor/."""
