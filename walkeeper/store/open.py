"""From the configuration's store to a store. A store is its folder, and its line here."""

from __future__ import annotations

from pathlib import Path

from walkeeper.errors import WalkeeperError
from walkeeper.lib.section import Section
from walkeeper.store.base import Store, StoreSettings
from walkeeper.store.clouds.keys import AzureSettings, GcsSettings
from walkeeper.store.directory.keys import DirectorySettings
from walkeeper.store.s3.keys import S3Settings


class StoreKeys(Section, frozen=True):
    """Where archived WAL lives for good: exactly one of these."""

    directory: Path | None = None
    """A directory that every node mounts."""
    s3: S3Settings | None = None
    gcs: GcsSettings | None = None
    azure: AzureSettings | None = None

    def given(self) -> dict[str, StoreSettings]:
        """What is configured, under the names of the keys. A directory has one setting and is written as that."""
        found = {name: getattr(self, name) for name in StoreKeys.__struct_fields__}
        return {
            name: DirectorySettings(value) if isinstance(value, Path) else value
            for name, value in found.items()
            if value is not None
        }


def open_store(settings: StoreSettings) -> Store:
    """Raises ConfigError or StoreUnfit; does not talk to the store yet. Only now what the store needs is imported."""
    return settings.open()


def url_of(settings: StoreSettings) -> str | None:
    """For people; None where it cannot be opened, which whoever asks it for something says."""
    try:
        return open_store(settings).url
    except WalkeeperError:
        return None
