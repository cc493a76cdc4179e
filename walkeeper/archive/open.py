"""From a configuration to its archives: the one place where store, codec, layout and segment size are put together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from walkeeper.archive.authentic import AuthenticStore, Trust, believing
from walkeeper.archive.backups import Backups
from walkeeper.archive.codec import Codec, open_codec
from walkeeper.archive.contents import IDENTIFIER, Contents, starts
from walkeeper.archive.layout import Layout, cluster_prefix
from walkeeper.archive.read import Reader
from walkeeper.archive.write import Archive
from walkeeper.config import Config
from walkeeper.core.lsn import SegmentSize
from walkeeper.store.base import Store
from walkeeper.store.open import open_store
from walkeeper.store.several import Several


@dataclass(frozen=True, slots=True)
class Archives:
    """One scope's archives in one store, by system identifier. ``far``: as in ``Reader``."""

    store: Store
    scope: str
    group: int | None
    codec: Codec
    far: bool = False
    trust: Trust = field(default_factory=Trust)

    def layout(self, system_identifier: int) -> Layout:
        return Layout(self.scope, self.group, system_identifier)

    def others(self, system_identifier: int) -> list[int]:
        """The system identifiers of other archives that were begun under this scope: it was initialised again, or upgraded.

        A LIST of folders, and one for each of them. Raises the store's errors.
        """
        names = (name for name in self.store.folders(cluster_prefix(self.scope, self.group)) if IDENTIFIER.match(name))
        found = {int(name) for name in names} - {system_identifier}
        return sorted(number for number in found if starts(self.store, self.layout(number)))

    def archive(self, system_identifier: int, size: SegmentSize) -> Archive:
        """To be written."""
        return Archive(self.store, self.layout(system_identifier), size, self.codec, far=self.far)

    def contents(self, system_identifier: int, size: SegmentSize) -> Contents:
        """What it holds."""
        return Contents(self.store, self.layout(system_identifier), size)

    def backups(self, system_identifier: int) -> Backups:
        """Its base backups."""
        return Backups(self.store, self.layout(system_identifier), self.codec)

    def reader(self) -> Reader:
        """For all of them."""
        return Reader(self.store, self.codec, far=self.far)


def open_archives(config: Config, store: Store | None = None, *, to_read: bool = False) -> Archives:
    """``store`` is one that was opened before. ``to_read``: nothing will be encrypted, so that the recipients do not matter.

    Raises ConfigError or StoreUnfit; does not talk to the store yet.
    """
    opened = open_store(config.store) if store is None else store
    codec = Codec(config.compression_level, config.encryption_recipients, config.identity_file)
    return Archives(
        opened if isinstance(opened, AuthenticStore | Several) else believing(opened, config),
        config.scope,
        config.group,
        codec if to_read else open_codec(config),
        far=config.store.remote
        or (isinstance(opened, Several) and any(each.settings.remote for each in config.others)),
        trust=Trust.of(config),
    )


def open_all(config: Config, opened: Sequence[Store] = (), *, timeout: float | None = None) -> Store:
    """The cluster's stores, to be read as one. ``opened``: as they were opened before; ``timeout``: in seconds, as in
    ``StoreSettings.with_timeout``. Raises as ``open_archives``.
    """
    settings = (config.store, *(other.settings for other in config.others))
    if not opened:
        opened = [open_store(each if timeout is None else each.with_timeout(timeout)) for each in settings]
    return opened[0] if len(opened) == 1 else Several([believing(store, config) for store in opened])
