"""A YAML file, read with suspicion. Only this module imports yaml.

Nothing is looked at before it is asked for: in a ``patroni.yml`` most sections are none of our business, and what is
wrong there is Patroni's to say. Refused wherever they stand are aliases that multiply. Nodes are composed and scalars made by
the safe loader, so that no object of Python can come of a tag.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, TypeAlias

import yaml

from walkeeper.errors import ConfigError
from walkeeper.lib import trust

MAX_FILE_BYTES: Final = 1024 * 1024
MAX_LINE_BYTES: Final = 64 * 1024
MAX_NODES: Final = 100_000
"""Values in the whole document, each counted as often as aliases repeat it."""

Keys: TypeAlias = tuple[str | int, ...]
"""Where a value stands: the keys, and the indexes in lists, from the top of the document."""

_TAG: Final = "tag:yaml.org,2002:"
_SCALARS: Final = frozenset({_TAG + kind for kind in ("str", "int", "float", "bool", "null", "timestamp")})
_BOMS: Final = (b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")

MAPPING: Final = "Keys stand one below the other, each with a colon and its value: bucket: our-wal"
_EMPTY: Final = "It takes scope at least, and the section walkeeper: with a store. Or name another file with --config."
_LOOK: Final = "Look at that line and the one above: indentation, brackets, quotes."
_TWICE: Final = "Keep one of them."


class Places:
    """Where each value came from, so that an error can name the line, or the environment variable."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self._lines: dict[Keys, int] = {}
        self._variables: dict[Keys, str] = {}

    def note_line(self, keys: Keys, line: int) -> None:
        self._lines[keys] = line

    def note_variable(self, keys: Keys, name: str) -> None:
        self._variables[keys] = name

    def from_environment(self, keys: Keys) -> bool:
        return keys in self._variables

    def error(self, keys: Keys, text: str, *, hint: str = "") -> ConfigError:
        """``FILE:LINE: the.path: text``; the line of what encloses the value where it has none of its own."""
        for length in range(len(keys), -1, -1):
            if variable := self._variables.get(keys[:length]):
                return ConfigError(f"{variable} (environment variable): {text}", hint=hint)
            if line := self._lines.get(keys[:length]):
                return _error(self.file, text, line=line, keys=dotted(keys), hint=hint)
        return _error(self.file, text, keys=dotted(keys), hint=hint)


class Section:
    """A mapping in the document. Its values are taken one by one; a null counts as not there."""

    def __init__(self, node: yaml.MappingNode, keys: Keys, places: Places, status: os.stat_result) -> None:
        self._node = node
        self.keys = keys
        self.places = places
        self.status = status
        """The file's: whose it is, and who may read and write it."""

    def __contains__(self, key: str) -> bool:
        return any(_is_key(name, key) for name, _ in _pairs(self._node))

    def names(self) -> list[str]:
        """The keys that are text."""
        return [name.value for name, _ in _pairs(self._node) if isinstance(name, yaml.ScalarNode)]

    def section(self, key: str) -> Section | None:
        """The mapping under that key. Raises ConfigError when it is something else."""
        node = self._find(key)
        if node is None:
            return None
        if not isinstance(node, yaml.MappingNode):
            raise self.error(key, "expected a mapping of keys to values", hint=MAPPING)
        return Section(node, (*self.keys, key), self.places, self.status)

    def text(self, key: str) -> str | None:
        """The value as text, which a number may stand for; None when it is empty."""
        value = self._scalar(key)
        if isinstance(value, bool):
            raise self.error(key, "expected text, got a boolean", hint="Put the value in quotes.")
        return None if value is None or value == "" else str(value)

    def flag(self, key: str) -> bool:
        """Whether the value is true; False when there is none."""
        return str(self._scalar(key)).lower() in ("true", "on", "yes", "1")

    def plain(self, key: str) -> Any:
        """Everything under that key as dictionaries, lists and scalars, with the places noted."""
        node = self._find(key)
        return None if node is None else self._plain(node, (*self.keys, key))

    def everything(self) -> Any:
        """The whole section, in the same way."""
        return self._plain(self._node, self.keys)

    def error(self, key: str, text: str, *, hint: str = "") -> ConfigError:
        return self.places.error((*self.keys, key), text, hint=hint)

    def _find(self, key: str) -> yaml.Node | None:
        own = [(name, node) for name, node in self._node.value if _is_key(name, key)]
        keys = (*self.keys, key)
        if len(own) > 1:
            self.places.note_line(keys, _line(own[1][0]))
            raise self.places.error(keys, f"the key is there twice, also on line {_line(own[0][0])}", hint=_TWICE)
        for name, node in _pairs(self._node):
            if _is_key(name, key):
                self.places.note_line(keys, _line(name))
                return None if node.tag == _TAG + "null" else node
        return None

    def _scalar(self, key: str) -> Any:
        node = self._find(key)
        if node is None:
            return None
        if not isinstance(node, yaml.ScalarNode):
            raise self.error(key, "expected a single value", hint="It stands on the line of its key, without a list.")
        return self._scalar_value(node, (*self.keys, key))

    def _plain(self, node: yaml.Node, keys: Keys) -> Any:
        if isinstance(node, yaml.ScalarNode):
            return self._scalar_value(node, keys)
        if isinstance(node, yaml.SequenceNode) and node.tag == _TAG + "seq":
            for index, item in enumerate(node.value):
                self.places.note_line((*keys, index), _line(item))
            return [self._plain(item, (*keys, index)) for index, item in enumerate(node.value)]
        if isinstance(node, yaml.MappingNode) and node.tag == _TAG + "map":
            return self._plain_mapping(node, keys)
        raise self._bad_tag(node, keys)

    def _bad_tag(self, node: yaml.Node, keys: Keys) -> ConfigError:
        """A tag of one's own may be a password that begins with an exclamation mark."""
        named = node.tag if node.tag.startswith(_TAG) else "!..."
        return self.places.error(keys, f"values of type {named!r} are not accepted", hint="Put text in quotes.")

    def _plain_mapping(self, node: yaml.MappingNode, keys: Keys) -> dict[str, Any]:
        own: dict[str, int] = {}
        for name, _ in node.value:
            if not isinstance(name, yaml.ScalarNode) or name.tag not in (_TAG + "str", _TAG + "merge"):
                self.places.note_line(keys, _line(name))
                raise self.places.error(keys, "a key that is not text", hint="Put the key in quotes if it is meant.")
            if name.value in own:
                self.places.note_line((*keys, name.value), _line(name))
                raise self.places.error(
                    (*keys, name.value), f"the key is there twice, also on line {own[name.value]}", hint=_TWICE
                )
            own[name.value] = _line(name)
        plain: dict[str, Any] = {}
        for name, value in _pairs(node):
            if name.value not in plain:
                self.places.note_line((*keys, name.value), _line(name))
                plain[name.value] = self._plain(value, (*keys, name.value))
        return plain

    def _scalar_value(self, node: yaml.ScalarNode, keys: Keys) -> Any:
        if node.tag not in _SCALARS:
            raise self._bad_tag(node, keys)
        if node.tag == _TAG + "timestamp":
            return node.value
        try:
            return yaml.constructor.SafeConstructor().construct_object(node)
        except ValueError:
            raise self.places.error(keys, f"not a value of type {node.tag.removeprefix(_TAG)}") from None


def read(path: Path) -> Section:
    """The document's top level. Raises ConfigError, one line that names the file and, where it is known, the line."""
    data, status = _read_bytes(path)
    text = _decode(path, data)
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        _check_expansion(path, root)
    except yaml.reader.ReaderError as error:
        number = text.count("\n", 0, error.position) + 1
        raise _error(path, "a character that YAML does not allow", line=number) from None
    except yaml.MarkedYAMLError as error:
        raise _syntax_error(path, error) from None
    except RecursionError:
        raise _error(path, "it is nested too deeply to be a configuration") from None
    if root is None:
        raise _error(path, "the file is empty", hint=_EMPTY)
    if not isinstance(root, yaml.MappingNode):
        raise _error(path, "expected a mapping of keys to values at the top level", line=_line(root), hint=MAPPING)
    return Section(root, (), Places(path), status)


def dotted(keys: Keys) -> str:
    """``store.s3.bucket``, ``encryption.recipients[0]``; keys from a file are kept to one line."""
    text = ""
    for key in keys:
        text += f"[{key}]" if isinstance(key, int) else f".{key if key.isprintable() else ascii(key)}"
    return text.removeprefix(".")


def _error(path: Path, text: str, *, line: int | None = None, keys: str = "", hint: str = "") -> ConfigError:
    place = f"{path}:{line}" if line else str(path)
    return ConfigError(": ".join(filter(None, (place, keys, text))), hint=hint)


def _read_bytes(path: Path) -> tuple[bytes, os.stat_result]:
    """The file's bytes, and what it is. Opened without blocking, so that a FIFO cannot hang the caller."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from None
    try:
        status = os.fstat(descriptor)
        if stat.S_ISDIR(status.st_mode):
            raise _error(path, "it is a directory", hint="Name one file: a directory of them is not supported.")
        if not stat.S_ISREG(status.st_mode):
            raise _error(path, "it is not a regular file")
        if exposed := trust.refusal(path, status, trust.Us.here()):
            raise _error(path, exposed.text, hint=exposed.hint)
        with open(descriptor, "rb", closefd=False) as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise _unreadable(path, error) from None
    finally:
        os.close(descriptor)
    if len(data) > MAX_FILE_BYTES:
        raise _error(
            path, f"it is larger than {MAX_FILE_BYTES} bytes", hint="A configuration is smaller: name the right file."
        )
    return data, status


def _unreadable(path: Path, error: OSError | ValueError) -> ConfigError:
    reason = error.strerror if isinstance(error, OSError) else str(error)
    hint = "Name the file with --config or WALKEEPER_CONFIG." if isinstance(error, FileNotFoundError) else ""
    if isinstance(error, PermissionError):
        hint = f"It must be readable by uid {os.geteuid()}, as which walkeeper runs."
    return _error(path, f"it cannot be read: {reason}", hint=hint)


def _decode(path: Path, data: bytes) -> str:
    if data.startswith(_BOMS):
        raise _error(path, "it starts with a byte order mark", line=1, hint="Save it as UTF-8 without one.")
    for number, line in enumerate(data.split(b"\n"), start=1):
        if len(line) > MAX_LINE_BYTES:
            raise _error(path, f"the line is longer than {MAX_LINE_BYTES} bytes", line=number)
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        number = data.count(b"\n", 0, error.start) + 1
        raise _error(path, "it is not UTF-8", line=number, hint="Save it as UTF-8.") from None


def _syntax_error(path: Path, error: yaml.MarkedYAMLError) -> ConfigError:
    mark = error.problem_mark or error.context_mark
    text = re.sub(r"\s+", " ", error.problem or error.context or "it is not YAML")
    hint = "YAML indents with spaces only." if "\\t" in text else _LOOK
    alias = "found undefined alias"
    if text.startswith(alias):  # its name may be a password
        text, hint = alias, "Put text that begins with * in quotes."
    return _error(path, ascii(text)[1:-1].replace("\\\\", "\\"), line=mark.line + 1 if mark else None, hint=hint)


def _check_expansion(path: Path, root: yaml.Node | None) -> None:
    """Refuse what would be huge or endless once each alias is replaced by what it stands for. Linear in the file."""
    sizes: dict[int, int] = {}

    def size(node: yaml.Node) -> int:
        if id(node) in sizes:
            if sizes[id(node)] == 0:
                raise _error(path, "an alias that contains itself", line=_line(node))
            return sizes[id(node)]
        sizes[id(node)] = 0
        total = 1 + sum(size(child) for child in _children(node))
        if total > MAX_NODES:
            raise _error(path, f"more than {MAX_NODES} values, with what aliases repeat", line=_line(node))
        sizes[id(node)] = total
        return total

    if root is not None:
        size(root)


def _children(node: yaml.Node) -> Iterator[yaml.Node]:
    if isinstance(node, yaml.SequenceNode):
        yield from node.value
    elif isinstance(node, yaml.MappingNode):
        for name, value in node.value:
            yield name
            yield value


def _pairs(node: yaml.MappingNode) -> Iterator[tuple[yaml.Node, yaml.Node]]:
    """A mapping's own pairs, then what ``<<`` merges into it; the first of a name is the one that counts."""
    merged: list[yaml.Node] = []
    for name, value in node.value:
        if name.tag != _TAG + "merge":
            yield name, value
        else:
            merged += value.value if isinstance(value, yaml.SequenceNode) else [value]
    for mapping in merged:
        if isinstance(mapping, yaml.MappingNode):
            yield from _pairs(mapping)


def _is_key(name: yaml.Node, key: str) -> bool:
    return isinstance(name, yaml.ScalarNode) and name.value == key


def _line(node: yaml.Node) -> int:
    line: int = node.start_mark.line + 1
    return line
