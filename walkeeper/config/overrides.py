"""``WALKEEPER_…`` variables: each key of the configuration has one, named after its path, and it goes before the file."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from walkeeper.config.keys import Key, all_keys
from walkeeper.config.yaml_file import Places
from walkeeper.errors import ConfigError
from walkeeper.lib.near import nearest

PREFIX: Final = "WALKEEPER_"

NOT_KEYS: Final = ("WALKEEPER_CONFIG", "WALKEEPER_RUN_DIR", "WALKEEPER_PYTHON")
"""Which file, where the socket is, and which Python the scripts in patroni_callbacks/ take."""

_TESTS: Final = "WALKEEPER_TEST_"

# Kubernetes gives every container such variables for each service, also for one whose name starts with "walkeeper".
_OF_KUBERNETES: Final = re.compile(r"_(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_(TCP|UDP|SCTP)(_\w+)?)?)")

_FLAGS: Final = {
    **dict.fromkeys(("true", "yes", "on", "1"), True),
    **dict.fromkeys(("false", "no", "off", "0"), False),
}


def variable(key: Key) -> str:
    return PREFIX + "_".join(key.path).upper()


def apply(tree: dict[str, Any], environ: Mapping[str, str], section: tuple[str, ...], places: Places) -> None:
    """Put what the environment says into ``tree``. An empty variable counts as not set. Raises ConfigError."""
    ours = {name: text for name, text in environ.items() if name.startswith(PREFIX) and name not in NOT_KEYS}
    named = sorted((name, text) for name, text in ours.items() if not name.startswith(_TESTS))
    keys = {variable(key): key for key in all_keys() if key.kind != "sections"} if named else {}
    for name, text in named:
        if key := keys.get(name):
            if text:
                _set(tree, key, _read(name, key, text))
                places.note_variable((*section, *key.path), name)
        elif not _OF_KUBERNETES.search(name):
            raise _unknown(name, [*keys, *NOT_KEYS])


def _unknown(name: str, known: list[str]) -> ConfigError:
    near = nearest(name, known, 3)
    hint = f"Did you mean {' or '.join(near)}?" if near else "docs/configuration.md lists the variables."
    return ConfigError(f"{ascii(name)[1:-1]} (environment variable): no such setting", hint=hint)


def _read(name: str, key: Key, text: str) -> object:
    if key.kind == "list":
        return [item.strip() for item in text.split(",") if item.strip()]
    if key.kind == "integer":
        if not re.fullmatch(r"[0-9]{1,18}", text.strip()):
            raise ConfigError(f"{name} (environment variable): expected a whole number")
        return int(text)
    if key.kind == "flag":
        if text.strip().lower() not in _FLAGS:
            raise ConfigError(f"{name} (environment variable): expected true or false")
        return _FLAGS[text.strip().lower()]
    return text


def _set(tree: dict[str, Any], key: Key, value: object) -> None:
    """Where the file has something else in place of a section, that is left for the check of types to find."""
    for name in key.section:
        if tree.get(name) is None:
            tree[name] = {}
        tree = tree[name]
        if not isinstance(tree, dict):
            return
    tree[key.name] = value
