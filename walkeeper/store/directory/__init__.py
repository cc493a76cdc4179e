"""A store in a directory that every node mounts. Loads nothing but the standard library, so that it stands here by name."""

from walkeeper.store.directory.driver import DirectoryStore

__all__ = ["DirectoryStore"]
