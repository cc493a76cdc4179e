"""What botocore reads of its own description of AWS, without what nobody here asks for: in memory it is 12 MiB, and 2 so.

What is left out is not decoded, so that it never was in memory either, and a client is made in half the time.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import re
from collections.abc import Sequence
from typing import Any, Final

import msgspec
from botocore.loaders import JSONFileLoader

_OPENERS: Final = ((".json", open), (".json.gz", gzip.open))
_ASKED: Final = frozenset({"s3", "sts", "oidc", "portal.sso", "signin"})
"""Services by the names of their end points: S3, and those that credentials come from."""
CALLED: Final = frozenset(
    {
        "DeleteObject",
        "GetBucketVersioning",
        "GetObject",
        "GetObjectLockConfiguration",
        "HeadObject",
        "ListObjectsV2",
        "PutObject",
        # By botocore itself: where a bucket's region is, and for buckets that are directories.
        "CreateSession",
        "HeadBucket",
    }
)
"""Operations of S3: what the driver calls."""

_S3: Final = re.compile(r"/s3/[^/]+/(?:(?P<model>service-2)|endpoint-rule-set-1)\Z")
"""By its own folder: botocore itself may lie below one of that name."""
_OBJECT: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])
_OBJECTS: Final = msgspec.json.Decoder(list[dict[str, msgspec.Raw]])
_CONDITIONS: Final = msgspec.json.Decoder(list[dict[str, Any]])


class Documents(JSONFileLoader):
    """A botocore.loaders.Loader's ``file_loader``, for a client of that bucket."""

    def __init__(self, bucket: str) -> None:
        self._bucket = bucket

    def load_file(self, file_path: str) -> Any:
        """The document without its documentation, or None where the file does not exist. Equal strings in it are one object.

        One that is not written as we know it is read as a whole: a new version of botocore may bring it, or a user's own folder.
        """
        for ending, opener in _OPENERS:
            with contextlib.suppress(FileNotFoundError, PermissionError), opener(file_path + ending, "rb") as file:
                text: bytes = file.read()
                with contextlib.suppress(KeyError, TypeError, msgspec.MsgspecError):
                    return self._without_what_nobody_asks_for(file_path, text)
                return _Reader().read(text)
        return None

    def _without_what_nobody_asks_for(self, file_path: str, text: bytes) -> Any:
        if file_path.endswith("/endpoints"):
            return _end_points(text)
        if of_s3 := _S3.search(file_path):
            return _model(text) if of_s3["model"] else _end_point_rules(text, self._bucket)
        return _Reader().read(text)


class _Reader:
    """Notes the ``shapes`` that are named in what it has read."""

    def __init__(self) -> None:
        self.shapes: set[str] = set()
        self._texts = {"": ""}

    def read(self, text: bytes) -> Any:
        return json.loads(text, object_pairs_hook=self._made)

    def all(self, texts: dict[str, msgspec.Raw]) -> dict[str, Any]:
        made: dict[str, Any] = self.read(msgspec.json.encode(texts))
        return made

    def _made(self, pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
        found = {
            key: self._one("" if key == "documentation" else value) if isinstance(value, str) else value
            for key, value in pairs
        }
        if isinstance(shape := found.get("shape"), str):
            self.shapes.add(shape)
        return found

    def _one(self, text: str) -> str:
        return self._texts.setdefault(text, text)


def _end_points(text: bytes) -> dict[str, Any]:
    """Of some four hundred services those that are asked for, each with its regions."""
    reader, document = _Reader(), _OBJECT.decode(text)
    partitions = _OBJECTS.decode(document.pop("partitions"))
    services = [_OBJECT.decode(partition.pop("services")) for partition in partitions]
    return reader.all(document) | {
        "partitions": [
            reader.all(partition) | {"services": reader.all(_only(_ASKED, among))}
            for partition, among in zip(partitions, services, strict=True)
        ]
    }


def _model(text: bytes) -> dict[str, Any]:
    """Of S3: the operations that are called, and the shapes that they need."""
    reader, document = _Reader(), _OBJECT.decode(text)
    shapes = _OBJECT.decode(document.pop("shapes"))
    operations = reader.all(_only(CALLED, _OBJECT.decode(document.pop("operations"))))
    needed: dict[str, Any] = {}
    while missing := (reader.shapes & shapes.keys()) - needed.keys():
        needed |= reader.all(_only(missing, shapes))
    return reader.all(document) | {"operations": operations, "shapes": needed}


def _end_point_rules(text: bytes, bucket: str) -> dict[str, Any]:
    """Of S3: those that may hold for that bucket."""
    document = _OBJECT.decode(text)
    return _Reader().all(document | {"rules": _holding(document["rules"], bucket)})


def _holding(rules: msgspec.Raw, bucket: str) -> msgspec.Raw:
    kept = [
        rule | {"rules": _holding(rule["rules"], bucket)} if "rules" in rule else rule
        for rule in _OBJECTS.decode(rules)
        if not any(_never(condition, bucket) for condition in _CONDITIONS.decode(rule["conditions"]))
    ]
    return msgspec.Raw(msgspec.json.encode(kept))


def _never(condition: dict[str, Any], bucket: str) -> bool:
    """Whether it holds for no call that is made; of one that is not known it is not said."""
    match condition:
        case {"fn": "stringEquals", "argv": [{"ref": "bucketSuffix" | "accessPointSuffix"}, end]}:
            return not bucket.endswith(end)
        case {"fn": "aws.parseArn", "argv": [{"ref": "Bucket"}]}:
            return True  # the configuration refuses one
        case {"fn": "not", "argv": [{"fn": "isSet", "argv": [{"ref": "Bucket"}]}]}:
            return True  # each operation that is called has one
        case {"fn": "booleanEquals", "argv": [{"ref": "UseObjectLambdaEndpoint"}, True]}:
            return True  # of an operation that is not called
    return False


def _only(names: frozenset[str] | set[str], among: dict[str, msgspec.Raw]) -> dict[str, msgspec.Raw]:
    return {name: among[name] for name in names & among.keys()}
