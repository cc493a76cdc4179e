"""The way to the cluster's keys in the DCS, for who has no agent that has one already."""

from __future__ import annotations

from walkeeper.config import Config
from walkeeper.dcs.base import RECORD, RecordStore
from walkeeper.dcs.furthest import read_together


def connect_all(config: Config, key: str, seconds: float) -> RecordStore:
    """To the records of all stores, read as one, or to another key of the first's. Raises ConfigError."""
    from walkeeper.dcs.patroni import connect  # noqa: PLC0415 - seldom needed, and heavy

    stores = config.stores if key == RECORD else config.stores[:1]
    names = [config.of_store(store).key(key) for store in stores]
    return read_together([connect(config.patroni_config, config.node.name, seconds, name) for name in names])
