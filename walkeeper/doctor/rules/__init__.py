"""All rules. Importing a module of them registers them."""

from __future__ import annotations

from walkeeper.doctor.rules import archiving, backups, dcs, node, patroni, server, store, wiring

__all__ = ["archiving", "backups", "dcs", "node", "patroni", "server", "store", "wiring"]
