"""What msgspec says against a value, in our words, with its place and a hint."""

from __future__ import annotations

import re
from typing import Final

import msgspec

from walkeeper.config.keys import Key, key_at
from walkeeper.config.written import Written
from walkeeper.config.yaml_file import MAPPING
from walkeeper.errors import ConfigError
from walkeeper.lib.near import nearest
from walkeeper.lib.section import WrongValue

_MISSING: Final = re.compile(r"Object missing required field `(\w+)`")
_ENUM: Final = re.compile(r"Invalid enum value '(.*)'\Z")
_FORMS: Final = {
    "hold_slot": "a to z, 0 to 9 and _, 63 characters at most",
    "name": "a to z, 0 to 9 and -, a letter first, 31 characters at most",
}
"""What a key takes, by its name, where a pattern says it."""
_TYPES: Final = {
    "str": "text",
    "int": "a whole number",
    "bool": "true or false",
    "object": "a mapping",
    "array": "a list",
}


def type_error(error: msgspec.ValidationError, written: Written) -> ConfigError:
    """Of a text such as ``Expected `int`, got `str` - at `$.upload_workers```."""
    text, _, at = str(error).partition(" - at `$")
    path: tuple[str | int, ...] = tuple(
        int(index) if index else name for name, index in re.findall(r"\.(\w+)|\[(\d+)\]", at)
    )
    if missing := _MISSING.match(text):
        return written.error((*path, missing[1]), "missing", hint=_about(key_at((*path, missing[1]))))
    key, hint = key_at(path), error.__cause__.hint if isinstance(error.__cause__, WrongValue) else ""
    if key is not None and (enum := _ENUM.match(text)):
        text = f"{enum[1]!r} is none of {', '.join(key.choices)}"
        near = nearest(enum[1], key.choices)
        return written.error(path, text, hint=f"Did you mean {near[0]}?" if near else _about(key))
    if " matching regex " in text and path[-1] in _FORMS:
        text = f"expected {_FORMS[str(path[-1])]}"
    text = re.sub(r"`([\w |]+)`", lambda match: _type(match[1].split(" | ")), text)
    text = text[:1].lower() + text[1:]
    return written.error(path, text, hint=hint or (MAPPING if text.startswith("expected a mapping") else _about(key)))


def _type(names: list[str]) -> str:
    """``bool`` beside another is for off, which needs no quotes."""
    told = [name for name in names if name not in ("bool", "null")] or names
    return " or ".join(_TYPES.get(name, name) for name in told)


def _about(key: Key | None) -> str:
    return f"What it is: {key.description.replace('`', '')}" if key is not None and key.description else ""
