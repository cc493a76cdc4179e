"""Modules that others import and nobody may ever use."""

from __future__ import annotations

import importlib
import sys
import threading
import types
from contextlib import suppress
from typing import Any, Final

_DELETES: Final = threading.Lock()


def load_when_used(name: str) -> None:
    """Who imports it from now on gets what loads it when something of it is asked for. One that is loaded stays as it is."""
    package, _, own = name.rpartition(".")
    with suppress(ImportError):  # who imports it is told
        parent = importlib.import_module(package) if package else None
        later = _Later(name)
        if sys.modules.setdefault(name, later) is later and parent is not None:
            setattr(parent, own, later)  # the import system does so only for what it loads itself


class _Later(types.ModuleType):
    """In the module's place until then. What importlib has for it, LazyLoader, loads at the second import (Python 3.11)."""

    def __getattr__(self, name: str) -> Any:
        with _DELETES:  # what another thread is loading stays
            if sys.modules.get(self.__name__) is self:
                del sys.modules[self.__name__]
        return getattr(importlib.import_module(self.__name__), name)
