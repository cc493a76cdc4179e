"""What botocore reads of its own description of AWS, without what nobody here asks for: in memory it is 12 MiB, and 3 so."""

from __future__ import annotations

import contextlib
import gzip
import json
from collections.abc import Sequence
from typing import Any, Final

from botocore.loaders import JSONFileLoader

_OPENERS: Final = ((".json", open), (".json.gz", gzip.open))
_ASKED: Final = frozenset({"s3", "sts", "oidc", "portal.sso", "signin"})
"""Services by the names of their end points: S3, and those that credentials come from."""


class Documents(JSONFileLoader):
    """A botocore.loaders.Loader's ``file_loader``."""

    def load_file(self, file_path: str) -> Any:
        """The document without its documentation; one string for equal ones. None: there is no such file."""
        texts = {"": ""}

        def made(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
            return {
                key: texts.setdefault("" if key == "documentation" else value, value)
                if isinstance(value, str)
                else value
                for key, value in pairs
            }

        for ending, opener in _OPENERS:
            with contextlib.suppress(FileNotFoundError), opener(file_path + ending, "rb") as file:
                document = json.loads(file.read(), object_pairs_hook=made)
                if file_path.endswith("/endpoints"):
                    _cut(document)
                return document
        return None


def _cut(endpoints: dict[str, Any]) -> None:
    """Of some four hundred services, each with its regions."""
    for partition in endpoints["partitions"]:
        services = partition["services"]
        partition["services"] = {name: services[name] for name in services.keys() & _ASKED}
