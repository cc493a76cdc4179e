"""Where in a bucket, and at which server: settings that all stores over HTTP have, in one form."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final
from urllib.parse import urlsplit

from walkeeper.errors import WrongSetting
from walkeeper.store.object_key import MAX_KEY, is_part

MAX_PREFIX: Final = 1000 - MAX_KEY
"""Characters, with a slash at the end."""


def one_prefix(prefix: str) -> str:
    """Without slashes at its ends or doubled ones: stores differ in what they make of ``a//b``."""
    parts = [part for part in prefix.split("/") if part]
    if not all(is_part(part) for part in parts):
        raise WrongSetting(
            "prefix",
            f"{prefix[:MAX_KEY]!r} cannot be part of a key",
            hint="Use letters, digits, dashes and slashes; no part may start with a dot.",
        )
    if sum(len(part) + 1 for part in parts) > MAX_PREFIX:
        raise WrongSetting("prefix", f"longer than {MAX_PREFIX - 1} characters", hint="Choose a shorter one.")
    return "/".join(parts)


def one_endpoint(endpoint: str | None) -> str | None:
    if endpoint is None:
        return None
    try:
        url = urlsplit(endpoint)
        fits = url.scheme in ("http", "https") and url.hostname and (url.port or 1)
    except ValueError:
        fits = False
    if not fits or "@" in endpoint or url.query or url.fragment or not endpoint.isprintable() or " " in endpoint:
        raise WrongSetting(
            "endpoint",
            "expected http(s)://HOST[:PORT] and nothing else",
            hint="As in https://minio.example.com:9000; the bucket has a key of its own.",
        )
    return endpoint.rstrip("/")


def in_clear(endpoint: str | None) -> Iterator[WrongSetting]:
    """A doubt, where what is sent there can be read on its way."""
    url = urlsplit(endpoint or "")
    host = url.hostname or ""
    if url.scheme == "http" and host not in ("localhost", "::1") and not host.startswith("127."):
        yield WrongSetting(
            "endpoint",
            "WAL goes over the network in clear, and whoever is on the way can read and change it",
            hint="Use https://, with ca_file where the server's certificate is from an authority of your own.",
        )
