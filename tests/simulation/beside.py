"""A second store of the same cluster: with objects, an outage, a record and invariants of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from tests.simulation.invariants import Invariants
from tests.simulation.seams import StoreView
from tests.simulation.wal import SIZE
from walkeeper.archive.write import Archive
from walkeeper.dcs.base import RECORD

if TYPE_CHECKING:
    from tests.simulation.world import World

NAME: Final = "far"


class Beside:
    """The world as that store's invariants see it: another store, and everything else is the world's."""

    key = f"{RECORD}-{NAME}"

    def __init__(self, world: World) -> None:
        self._world = world
        self.store_down = False
        self.lose_store_answers = self.wrong_answers = 0
        self.late_by = 0.0
        self.created: dict[str, tuple[str, float]] = {}
        self.elsewhere: dict[str, tuple[bytes, dict[str, str]]] | None = None
        self.store = StoreView(self, None)
        self.archive = Archive(self.store, world.layout, SIZE, world.archive.codec)
        self.invariants = Invariants(self)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._world, name)
