"""All rules. Importing a module of them registers them."""

from __future__ import annotations

from walkeeper.doctor.rules import agents, archiving, backups, dcs, node, patroni, server, store, wiring

__all__ = ["agents", "archiving", "backups", "dcs", "node", "patroni", "server", "store", "wiring"]
