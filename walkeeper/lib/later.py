"""Modules that others import and nobody may ever use."""

from __future__ import annotations

import importlib
import sys
import types
from typing import Any


def load_when_used(name: str) -> None:
    """Who imports it from now on gets what loads it when something of it is asked for. One that is loaded stays as it is."""
    sys.modules.setdefault(name, _Later(name))


class _Later(types.ModuleType):
    """In the module's place until then. What importlib has for it, LazyLoader, loads at the second import (Python 3.11)."""

    def __getattr__(self, name: str) -> Any:
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        return getattr(importlib.import_module(self.__name__), name)
