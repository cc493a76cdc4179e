"""Tests of walkeeper/dcs/."""
