"""walkeeper: gapless WAL archiving for Patroni clusters."""

__version__ = "0.1.0"
