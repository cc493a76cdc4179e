"""Commands in hints, where a cluster has several stores."""

from __future__ import annotations

import re
from typing import Final

_COMMAND: Final = re.compile(r"\bwalkeeper (gap(?= accept)|takeover|verify|backups?|expire)\b(?! --store)")
"""Those that are for one store; without being told, for the first, or for all."""


def for_store(hint: str, name: str) -> str:
    """The hint, with commands that are told to be for that store."""
    return _COMMAND.sub(rf"\g<0> --store {name}", hint)
