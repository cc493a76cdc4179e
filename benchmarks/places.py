"""Where archives of a benchmark go: a directory or a real S3 server; each can be slow, and can go away and come back."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal, Protocol, Self
from urllib.parse import urlsplit

from benchmarks.slow_s3 import SlowS3
from tests.parts.azurite import Azurite
from tests.parts.fake_gcs import FakeGcs
from tests.parts.processes import new_directory
from tests.parts.seaweedfs import LEAST_ACTIONS, SeaweedFS
from walkeeper.store.base import Store
from walkeeper.store.directory import DirectoryStore

Kind = Literal["directory", "s3", "gcs", "azure"]

_serial = itertools.count(1)


class Place(Protocol):
    """One empty archive's place. ``put_delay``: seconds that each PUT takes longer for the agents; they must know it too."""

    kind: Kind
    put_delay: float

    def section(self) -> dict[str, Any]:
        """``walkeeper.store`` of the configuration."""

    def store(self) -> Store:
        """As we look into it ourselves, without the delay."""

    def beside(self) -> Place:
        """Another one of its kind, empty."""

    def away(self) -> None:
        """Make it unreachable."""

    def hang(self) -> None:
        """Let it take connections and answer nothing; where there are none, it goes away."""

    def deny(self) -> None:
        """Let it refuse whoever writes."""

    def slow(self, put_delay: float) -> None:
        """Let each PUT take so many seconds longer. Raises RuntimeError where it cannot be slow."""

    def back(self) -> None:
        """Make it as it was."""


class DirectoryPlace:
    """A directory. It goes away by being renamed, as when a file system is not mounted.

    The delay is the agents' own business: they are started by benchmarks.slow_store.
    """

    kind: Kind = "directory"

    def __init__(self, put_delay: float = 0.0) -> None:
        self.put_delay = put_delay
        self._above = new_directory("d")
        self.root = self._above / "archive"
        self.root.mkdir()
        self._modes: dict[Path, int] = {}
        self._other: Path | None = None

    def section(self) -> dict[str, Any]:
        return {"directory": str(self.root)}

    def store(self) -> DirectoryStore:
        return DirectoryStore(self.root)

    def beside(self) -> DirectoryPlace:
        return DirectoryPlace(self.put_delay)

    def away(self) -> None:
        self.root.rename(self._away)

    hang = away

    def deny(self) -> None:
        self._modes = {path: path.stat().st_mode for path in [self.root, *self.root.rglob("*")] if path.is_dir()}
        for path in self._modes:
            path.chmod(0o555)

    def slow(self, put_delay: float) -> None:
        raise RuntimeError(f"{put_delay:g} s: a directory is slow in the agents, from their start on")

    def exchange(self, other: Path) -> None:
        """That directory lies in its place, as when another file system is mounted there."""
        self.away()
        other.rename(self.root)
        self._other = other

    def back(self) -> None:
        if self._other is not None:
            self.root.rename(self._other)
            self._other = None
        if self._away.exists():
            self._away.rename(self.root)
        while self._modes:
            path, mode = self._modes.popitem()
            path.chmod(mode)

    @property
    def _away(self) -> Path:
        return self._above / "away"


class BucketPlace:
    """A prefix of its own in a bucket of SeaweedFS or of an emulator; the delay is made by a proxy in front of it."""

    def __init__(self, kind: Kind, server: SeaweedFS | FakeGcs | Azurite, proxy: SlowS3 | None) -> None:
        self.kind = kind
        self.put_delay = proxy.put_delay if proxy else 0.0
        self._server = server
        self._proxy = proxy
        self._prefix = f"run{next(_serial)}"
        self._frozen = False

    def section(self) -> dict[str, Any]:
        return self._server.section(self._prefix, self._proxy.endpoint if self._proxy else "")

    def store(self) -> Store:
        return self._server.settings(prefix=self._prefix).open()

    def beside(self) -> BucketPlace:
        return BucketPlace(self.kind, self._server, self._proxy)

    def away(self) -> None:
        self._server.stop()

    def hang(self) -> None:
        self._server.freeze()
        self._frozen = True

    def deny(self) -> None:
        self._through_proxy().denies = True

    def slow(self, put_delay: float) -> None:
        self._through_proxy().put_delay = put_delay

    def _through_proxy(self) -> SlowS3:
        if self._proxy is None:
            raise RuntimeError("there is no proxy before this bucket")
        return self._proxy

    def back(self) -> None:
        if self._proxy is not None:
            self._proxy.denies, self._proxy.put_delay = False, self.put_delay
        if self._frozen:
            self._server.thaw()
        self._frozen = False
        self._server.start()


class Places:
    """Makes places of one kind; starts what that needs once. A context manager. The bucket's credentials have no spare rights."""

    def __init__(self, kind: Kind, put_delay: float = 0.0) -> None:
        self.kind = kind
        self._put_delay = put_delay
        self._open = ExitStack()
        self._make: Callable[[], Place] = lambda: DirectoryPlace(put_delay)

    def new(self) -> Place:
        return self._make()

    def __enter__(self) -> Self:
        if self.kind != "directory":
            server = _server(self.kind)
            self._open.enter_context(server)
            port = urlsplit(server.endpoint).port or 0
            proxy = self._open.enter_context(SlowS3(port, self._put_delay)) if self._put_delay else None
            self._make = lambda: BucketPlace(self.kind, server, proxy)
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()


def _server(kind: Kind) -> SeaweedFS | FakeGcs | Azurite:
    if kind == "s3":
        return SeaweedFS(actions=LEAST_ACTIONS)
    return FakeGcs() if kind == "gcs" else Azurite()
