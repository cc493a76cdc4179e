"""Making boto3's client for a bucket."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final

import boto3.session
import botocore.session
from botocore.config import Config
from botocore.utils import parse_timestamp

from walkeeper.errors import StoreDenied
from walkeeper.store.s3.answers import line
from walkeeper.store.s3.connection import bound
from walkeeper.store.s3.documents import Documents

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

    from walkeeper.store.s3.keys import S3Settings

POOL_SIZE: Final = 96
"""Connections that are kept: 64 uploads at the most, and who restores or asks meanwhile."""

_SHA256: Final = "x-amz-checksum-sha256"


def build(settings: S3Settings) -> S3Client:
    """Raises botocore's errors, or StoreDenied for a CA file that cannot be used."""
    ca_file = None if settings.ca_file is None else str(settings.ca_file)
    if ca_file is not None:
        try:
            ssl.create_default_context(cafile=ca_file)
        except OSError as error:
            raise StoreDenied(f"ca_file {ca_file}: {line(error)}", hint="It must hold certificates as PEM.") from error
    profile = settings.profile
    if settings.credentials_file is not None:
        # A named profile also keeps AWS_ACCESS_KEY_ID of the environment from going first.
        profile = profile or "default"
    session = botocore.session.Session(profile=profile)
    if settings.credentials_file is not None:
        session.set_config_variable("credentials_file", str(settings.credentials_file))
    session.get_component("data_loader").file_loader = Documents(settings.bucket)
    session.get_component("response_parser_factory").set_parser_defaults(timestamp_parser=_timestamp)
    client: S3Client = boto3.session.Session(botocore_session=session).client(
        "s3",
        endpoint_url=settings.endpoint,
        region_name=settings.region,
        verify=ca_file,
        aws_access_key_id=settings.access_key_id,
        aws_secret_access_key=settings.secret_access_key,
        aws_session_token=settings.session_token,
        config=Config(
            connect_timeout=settings.connect_timeout,
            read_timeout=settings.read_timeout,
            max_pool_connections=POOL_SIZE,
            tcp_keepalive=True,
            retries={"total_max_attempts": 1, "mode": "standard"},
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            s3={"addressing_style": "path" if settings.path_style else "auto"},
        ),
    )
    # The client follows a redirect to the region that the answer names. Where none is named it would ask for it with a
    # HEAD of the bucket, follow that one's redirect in the same way, and so on without an end.
    client.meta.events.register("provide-client-params.s3", partial(_with_options, settings))  # type: ignore[arg-type] # as below
    client.meta.events.register("before-call.s3.HeadBucket", _no_region)  # type: ignore[arg-type] # it may return an answer
    client.meta.events.register("before-call.s3.PutObject", _with_its_sum)
    return bound(client)


def _timestamp(value: str) -> datetime:
    """Botocore's own takes four fifths of the time that a listing takes, for what every store writes as ISO 8601."""
    try:
        parsed = datetime.fromisoformat(value)
    except (TypeError, ValueError):
        parsed = parse_timestamp(value)
    return parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)


def _with_options(settings: S3Settings, params: dict[str, Any], model: Any, **_: object) -> dict[str, Any]:
    below = f"{settings.prefix}/" if settings.prefix else ""
    return params | settings.options(model.name, str(params.get("Key", "")).removeprefix(below))


def _with_its_sum(params: dict[str, Any], **_: object) -> None:
    """Over TLS botocore does without the body's SHA-256 in the signature where there is another sum: an MD5, or one that it
    made itself and noted here."""
    if _SHA256 in params["headers"]:
        noted = {"algorithm": "sha256", "in": "header", "name": _SHA256}
        params["context"].setdefault("checksum", {})["request_algorithm"] = noted


def _no_region(**_: object) -> tuple[object, dict[str, object]]:
    return SimpleNamespace(status_code=200), {"ResponseMetadata": {"HTTPHeaders": {}}}
