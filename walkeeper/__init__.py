"""walkeeper: gapless WAL archiving for Patroni clusters."""

__version__ = "0.2.0.dev0"
