"""From keys as they are written to values that can be relied on: paths, secrets, addresses, the store."""

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from walkeeper.config.keys import S3Keys, StoreKeys
from walkeeper.config.yaml_file import Places
from walkeeper.errors import ConfigError
from walkeeper.store.settings import DirectorySettings, S3Settings, StoreSettings

MAX_SECRET_BYTES: Final = 64 * 1024

_BUCKET: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}")
_PREFIX: Final = re.compile(r"[A-Za-z0-9!_.*'()/=+@, -]*")


@dataclass(frozen=True, slots=True)
class Written:
    """Where the keys were written: ``section`` leads to them in the file, whose permission bits are ``mode``."""

    places: Places
    section: tuple[str, ...]
    mode: int

    def error(self, keys: tuple[str | int, ...], text: str, *, hint: str = "") -> ConfigError:
        return self.places.error((*self.section, *keys), text, hint=hint)

    def path(self, keys: tuple[str, ...], value: str | None) -> Path | None:
        """An absolute path, or None. Commands and the agent run in different directories."""
        if value is None:
            return None
        if not value.startswith("/") or "\0" in value:
            raise self.error(keys, f"{value!r} is no absolute path", hint="Write the whole path, from / on.")
        return Path(value)

    def secret(self, keys: tuple[str, ...], value: str | None, file: str | None = None) -> str | None:
        """A secret out of the environment, out of ``file`` (under the same key with ``_file``), or as written."""
        if value is not None and self.places.from_environment((*self.section, *keys)):
            return value
        if value is not None and file is not None:
            raise self.error(keys, f"{keys[-1]}_file is there too", hint="Keep the file and drop the secret.")
        if value is not None and self.mode & (stat.S_IRWXG | stat.S_IRWXO):
            variable = "WALKEEPER_" + "_".join(keys).upper()
            raise self.error(
                keys,
                f"a secret in a file of mode {self.mode:04o}",
                hint=f"chmod 600 the file, or set {variable} instead.",
            )
        if file is None:
            return value
        where = (*keys[:-1], f"{keys[-1]}_file")
        return self._read_secret(where, self.path(where, file))

    def _read_secret(self, keys: tuple[str, ...], path: Path | None) -> str | None:
        if path is None:
            return None
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                data = os.read(descriptor, MAX_SECRET_BYTES + 1)
            finally:
                os.close(descriptor)
            text = data.decode().rstrip("\r\n")
        except OSError as error:
            raise self.error(keys, f"{path} cannot be read: {error.strerror}") from None
        except UnicodeDecodeError:
            raise self.error(keys, f"{path} is not text") from None
        if not text or len(data) > MAX_SECRET_BYTES or not text.isprintable():
            raise self.error(keys, f"{path} does not hold one line with a secret")
        return text

    def address(self, keys: tuple[str, ...], value: str | bool) -> tuple[str, int] | None:
        """``HOST:PORT``, with brackets around an IPv6 address; None for ``off``. YAML reads a bare ``off`` as false."""
        if value is False or value == "off":
            return None
        host, _, port = str(value).rpartition(":")
        host = host.removeprefix("[").removesuffix("]")
        if not host or not re.fullmatch(r"[0-9]{1,5}", port) or int(port) > 65535:
            raise self.error(keys, "expected HOST:PORT, or off")
        return host, int(port)

    def store(self, keys: StoreKeys) -> StoreSettings:
        if keys.directory is not None and keys.s3 is not None:
            raise self.error(("store",), "both a directory and s3", hint="Keep one: an archive has one store.")
        if keys.s3 is not None:
            return self._s3(keys.s3)
        directory = self.path(("store", "directory"), keys.directory)
        if directory is None:
            raise self.error(
                ("store",),
                "missing",
                hint="Say where WAL goes in the section walkeeper: of this file: store.directory, or store.s3.bucket.",
            )
        return DirectorySettings(directory)

    def _s3(self, keys: S3Keys) -> S3Settings:
        at = ("store", "s3")
        secret = self.secret((*at, "secret_access_key"), keys.secret_access_key, keys.secret_access_key_file)
        token = self.secret((*at, "session_token"), keys.session_token)
        if (keys.access_key_id is None) != (secret is None):
            raise self.error(at, "access_key_id and secret_access_key go together, and one is missing")
        if keys.access_key_id is None and token is not None:
            raise self.error(at, "session_token without access_key_id")
        if keys.access_key_id is not None and keys.profile is not None:
            raise self.error((*at, "profile"), "access_key_id is there too", hint="Keep one of the two.")
        if not _BUCKET.fullmatch(keys.bucket) or ".." in keys.bucket:
            raise self.error((*at, "bucket"), f"{keys.bucket!r} is no name of a bucket")
        return S3Settings(
            bucket=keys.bucket,
            prefix=self._prefix((*at, "prefix"), keys.prefix),
            endpoint=self._endpoint((*at, "endpoint"), keys.endpoint),
            region=keys.region,
            path_style=keys.path_style,
            access_key_id=keys.access_key_id,
            secret_access_key=secret,
            session_token=token,
            profile=keys.profile,
            credentials_file=self.path((*at, "credentials_file"), keys.credentials_file),
            ca_file=self.path((*at, "ca_file"), keys.ca_file),
            connect_timeout=float(keys.connect_timeout),
            read_timeout=float(keys.read_timeout),
            overwrite_guard=keys.overwrite_guard,
        )

    def _prefix(self, keys: tuple[str, ...], prefix: str) -> str:
        """Without empty parts; stores differ in what they make of ``a//b``."""
        parts = [part for part in prefix.split("/") if part]
        if not _PREFIX.fullmatch(prefix) or "." in parts or ".." in parts or len(prefix) > 512:
            raise self.error(
                keys, f"{prefix!r} cannot be part of a key", hint="Use letters, digits, and - _ . = between slashes."
            )
        return "/".join(parts)

    def _endpoint(self, keys: tuple[str, ...], endpoint: str | None) -> str | None:
        if endpoint is None:
            return None
        try:
            url = urlsplit(endpoint)
            fits = url.scheme in ("http", "https") and url.hostname and (url.port or 1)
        except ValueError:
            fits = False
        if not fits or "@" in endpoint or url.query or url.fragment or not endpoint.isprintable() or " " in endpoint:
            raise self.error(keys, "expected http(s)://HOST[:PORT] and nothing else")
        return endpoint.rstrip("/")
