"""Which store, and how to reach it. Apart from the stores themselves, so that reading a configuration loads no SDK."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias

OverwriteGuard: TypeAlias = Literal["conditional", "head"]
"""``conditional``: PUT with ``If-None-Match: *``. ``head``: look first, for stores that ignore the condition."""


@dataclass(frozen=True, slots=True)
class DirectorySettings:
    """A directory, which all nodes mount."""

    path: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class S3Settings:
    """A bucket. ``prefix`` has no slash at its ends; None leaves the choice to boto3; time-outs are seconds."""

    bucket: str
    prefix: str = ""
    endpoint: str | None = None
    region: str | None = None
    path_style: bool = False
    access_key_id: str | None = None
    secret_access_key: str | None = field(default=None, repr=False)
    session_token: str | None = field(default=None, repr=False)
    profile: str | None = None
    credentials_file: Path | None = None
    ca_file: Path | None = None
    connect_timeout: float = 5.0
    read_timeout: float = 30.0
    overwrite_guard: OverwriteGuard = "conditional"


StoreSettings: TypeAlias = DirectorySettings | S3Settings
