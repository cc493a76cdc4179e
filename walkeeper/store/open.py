"""From the configuration's store to a store. What a store needs is imported only where it is used: boto3 takes 300 ms."""

from __future__ import annotations

from walkeeper.store.base import Store
from walkeeper.store.settings import DirectorySettings, StoreSettings


def open_store(settings: StoreSettings) -> Store:
    """Raises ConfigError or StoreUnfit; does not talk to the store yet."""
    if isinstance(settings, DirectorySettings):
        from walkeeper.store.directory import DirectoryStore  # noqa: PLC0415

        return DirectoryStore(settings.path)
    from walkeeper.store.s3.driver import S3Store  # noqa: PLC0415

    return S3Store(settings)
