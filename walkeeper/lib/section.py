"""A section of a configuration as a msgspec struct: strict, immutable, and silent about the secrets that it holds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Final, TypeAlias, TypeVar

import msgspec
from msgspec import Meta

_T = TypeVar("_T")

_SECRET: Final = {"secret": True}
_SECRET_FILE: Final = {"secret_file": True}

Secret: TypeAlias = Annotated[str, Meta(extra=_SECRET)]
SecretFile: TypeAlias = Annotated[Path, Meta(extra=_SECRET_FILE)]
"""A file with a secret in it that a library reads."""


class Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A mapping of the configuration."""

    def __repr__(self) -> str:
        """Without what is secret, so that a log line or a traceback cannot show it."""
        shown = [
            f"{field.name}={'…' if is_secret(field.type) and value is not None else repr(value)}"
            for field in msgspec.structs.fields(self)
            if (value := getattr(self, field.name)) != field.default
        ]
        return f"{type(self).__name__}({', '.join(shown)})"


class WrongValue(ValueError):
    """A value that its type cannot take, with what to write instead."""

    def __init__(self, text: str, *, hint: str = "") -> None:
        super().__init__(text)
        self.hint = hint


def decode(kind: Any, value: object) -> object:
    """Msgspec's ``dec_hook``: paths, and types that have a ``parse`` of their own. Raises ValueError."""
    return _absolute(value) if kind is Path else kind.parse(value)


def _absolute(value: object) -> Path:
    """Commands and the agent run in different directories."""
    if not isinstance(value, str):
        raise WrongValue("expected text")
    if not value.startswith("/") or "\0" in value:
        raise WrongValue(f"{value!r} is not an absolute path", hint="Write the whole path, from / on.")
    return Path(value)


def is_secret(annotation: Any) -> bool:
    return any(meta.extra == _SECRET for meta in metas(annotation))


def is_secret_file(annotation: Any) -> bool:
    return any(meta.extra == _SECRET_FILE for meta in metas(annotation))


def without_secrets_of_files(settings: _T) -> _T:
    """The same, but for what is in a file that it names as well: ``secret`` beside ``secret_file``."""
    if not isinstance(settings, Section):
        return settings
    names = [each.name for each in msgspec.structs.fields(settings) if is_secret(each.type)]
    return msgspec.structs.replace(
        settings, **{name: None for name in names if getattr(settings, f"{name}_file", None) is not None}
    )


def metas(annotation: Any) -> Iterator[Meta]:
    """What stands beside the type, the innermost last."""
    for part in getattr(annotation, "__metadata__", ()):
        if isinstance(part, Meta):
            yield part
    for part in (getattr(annotation, "__origin__", None), *getattr(annotation, "__args__", ())):
        if part is not None:
            yield from metas(part)
