"""All rules. Importing a module of them registers them."""

from __future__ import annotations

from walkeeper.doctor.rules import archiving, dcs, node, patroni, server, store, wiring

__all__ = ["archiving", "dcs", "node", "patroni", "server", "store", "wiring"]
