"""From keys as they are written to values that can be relied on: paths, secrets, addresses, the store."""

from __future__ import annotations

import contextlib
import os
import re
import stat
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from walkeeper.config.yaml_file import Places
from walkeeper.errors import ConfigError, WrongSetting
from walkeeper.lib import trust
from walkeeper.lib.section import Section, is_secret, is_secret_file
from walkeeper.lib.trust import Exposure
from walkeeper.store.base import StoreSettings
from walkeeper.store.open import StoreKeys


@dataclass(frozen=True, slots=True)
class Written:
    """Where the keys were written: ``section`` leads to them in the file, which ``status`` describes.

    ``exposed`` collects what others may do with the files that were read.
    """

    places: Places
    section: tuple[str, ...]
    status: os.stat_result
    exposed: list[Exposure] = field(default_factory=list)

    def error(self, keys: tuple[str | int, ...], text: str, *, hint: str = "") -> ConfigError:
        return self.places.error((*self.section, *keys), text, hint=hint)

    def path(self, keys: tuple[str | int, ...], value: str | None) -> Path | None:
        """An absolute path, or None. Commands and the agent run in different directories."""
        if value is None:
            return None
        if not value.startswith("/") or "\0" in value:
            raise self.error(keys, f"{value!r} is not an absolute path", hint="Write the whole path, from / on.")
        return Path(value)

    def secret(self, keys: tuple[str | int, ...], value: str | None, file: Path | str | None) -> str | None:
        """A secret out of the environment, out of ``file`` (under the same key with ``_file``), or as written."""
        if value is not None and self.places.from_environment((*self.section, *keys)):
            return value
        if value is not None and file is not None:
            raise self.error(keys, f"{keys[-1]}_file is there too", hint="Keep the file and drop the secret.")
        mode = stat.S_IMODE(self.status.st_mode)
        if value is not None and mode & (stat.S_IRWXG | stat.S_IRWXO):
            variable = "WALKEEPER_" + "_".join(map(str, keys)).upper()
            instead = f"write {keys[-1]}_file" if keys[0] == "stores" else f"set {variable}"
            raise self.error(
                keys,
                f"a secret in a file of mode {mode:04o}",
                hint=f"chmod 600 the file, or {instead} instead.",
            )
        if file is None:
            return value
        where = (*keys[:-1], f"{keys[-1]}_file")
        path = file if isinstance(file, Path) else self.path(where, file)
        return None if path is None else self.read_secret(where, path)

    def read_secret(self, keys: tuple[str | int, ...], path: Path | None) -> str:
        """The one line that a file holds."""
        if path is None:
            raise self.error(keys, "missing")
        us = trust.Us.here()
        try:
            text, status = trust.read_secret(path, us)
        except trust.UnusableSecret as problem:
            raise self.error(keys, str(problem), hint=problem.hint) from None
        self.exposed.extend(trust.exposures(path, status, us, secret=True))
        return text

    def secret_file(self, keys: tuple[str | int, ...], path: Path | None) -> Path | None:
        """A file with a secret that somebody else reads, later. That it is there is theirs to find out."""
        if path is not None:
            with contextlib.suppress(OSError):
                self._trusted(keys, path, path.stat())
        return path

    def _trusted(self, keys: tuple[str | int, ...], path: Path, status: os.stat_result) -> None:
        us = trust.Us.here()
        if refused := trust.refusal(path, status, us):
            raise self.error(keys, f"{path}: {refused.text}", hint=refused.hint)
        self.exposed.extend(trust.exposures(path, status, us, secret=True))

    def address(self, keys: tuple[str, ...], value: str | bool) -> tuple[str, int] | None:
        """``HOST:PORT``, with brackets around an IPv6 address; None for ``off``. YAML reads a bare ``off`` as false."""
        if value is False or value == "off":
            return None
        host, _, port = str(value).rpartition(":")
        host = host.removeprefix("[").removesuffix("]")
        if not host or not re.fullmatch(r"[0-9]{1,5}", port) or int(port) > 65535:
            raise self.error(keys, "expected HOST:PORT, or off", hint="As in 127.0.0.1:8018, or 0.0.0.0:8018 for all.")
        return host, int(port)

    def store(self, place: tuple[str | int, ...], keys: StoreKeys) -> StoreSettings:
        given = keys.given()
        if not given:
            raise self.error(
                place,
                "missing",
                hint="Say where WAL goes in the section walkeeper: of this file: store.directory, or store.s3, gcs, azure.",
            )
        if len(given) > 1:
            raise self.error(place, f"both {' and '.join(given)}", hint="Keep one: an archive has one store.")
        ((name, settings),) = given.items()
        at = (*place, name)
        try:
            checked = self._with_secrets(at, settings).checked()
        except WrongSetting as problem:
            keys_of_it = (*at, problem.key) if problem.key else at
            raise self.error(keys_of_it, problem.text, hint=problem.hint) from None
        for doubt in checked.doubts():
            self.exposed.append(Exposure(str(self.error((*at, doubt.key), doubt.text)), doubt.hint))
        return checked

    def _with_secrets(self, at: tuple[str | int, ...], settings: StoreSettings) -> StoreSettings:
        """With each secret, also where a file holds it: that is read again when the store refuses the secret."""
        if not isinstance(settings, Section):
            return settings
        changes: dict[str, object] = {}
        for each in msgspec.structs.fields(settings):
            if is_secret(each.type):
                file = getattr(settings, f"{each.name}_file", None)
                changes[each.name] = self.secret((*at, each.name), getattr(settings, each.name), file)
            elif is_secret_file(each.type):
                self.secret_file((*at, each.name), getattr(settings, each.name))
        return msgspec.structs.replace(settings, **changes)
