"""That botocore finds in what we let it read all that it would find by itself, but what is for people or other services."""

from __future__ import annotations

import errno
import gzip
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import botocore
import botocore.session
import pytest
from botocore import xform_name
from botocore.endpoint_provider import EndpointProvider
from botocore.exceptions import EndpointResolutionError
from botocore.loaders import JSONFileLoader, Loader

from walkeeper.store.s3 import documents
from walkeeper.store.s3.documents import CALLED, Documents

REGIONS: Final = ("us-east-1", "eu-central-1", "cn-north-1", "us-gov-west-1")


def session(*, ours: bool, bucket: str = "bucket") -> botocore.session.Session:
    made = botocore.session.Session()
    made.register_component(
        "data_loader", Loader(file_loader=Documents(bucket) if ours else None)
    )  # tests share one else
    return made


def without_documentation(document: Any) -> Any:
    if isinstance(document, dict):
        return {
            key: "" if key == "documentation" and isinstance(value, str) else without_documentation(value)
            for key, value in document.items()
        }
    return [without_documentation(each) for each in document] if isinstance(document, list) else document


@pytest.mark.parametrize(
    ("service", "kind"),
    [("sts", "endpoint-rule-set-1"), ("sts", "service-2"), ("s3", "paginators-1")],
)
def test_a_description_is_as_it_was_but_for_its_documentation(service: str, kind: str) -> None:
    theirs, ours = (
        session(ours=each).get_component("data_loader").load_service_model(service, kind) for each in (False, True)
    )
    assert ours == without_documentation(theirs)


def test_of_s3_there_is_what_is_called_and_all_that_it_needs() -> None:
    theirs, ours = (
        session(ours=each).get_component("data_loader").load_service_model("s3", "service-2") for each in (False, True)
    )
    theirs = without_documentation(theirs)
    assert {*ours["operations"]} == CALLED < {*theirs["operations"]}
    assert named(ours["operations"]) | named(ours["shapes"]) == {*ours["shapes"]}
    for part in ("operations", "shapes"):
        assert ours[part] == {name: theirs[part][name] for name in ours[part]}
    assert {**theirs, "operations": None, "shapes": None} == {**ours, "operations": None, "shapes": None}


BUCKETS: Final = (
    "bucket",
    "with.dots",
    "UPPER_case",
    "ab",
    "name--use1-az5--x-s3",
    "name--use1-az5--xa-s3",
    "name-s3alias",
    "test-accessp-o0b1d075431d83bebde8xz5w8ijx1qzlbp3i3kuse10--op-s3",
)
ANSWERS: Final[tuple[dict[str, object], ...]] = (
    {},
    {"ForcePathStyle": True},
    {"Accelerate": True},
    {"UseFIPS": True},
    {"UseDualStack": True},
    {"UseGlobalEndpoint": True},
    {"Endpoint": "https://store.example:9000"},
    {"Endpoint": "https://store.example:9000", "ForcePathStyle": True},
    {"DisableS3ExpressSessionAuth": True},
)


@pytest.mark.parametrize("bucket", BUCKETS)
def test_a_bucket_is_found_where_it_was(bucket: str) -> None:
    def found(*, ours: bool) -> list[object]:
        loader = session(ours=ours, bucket=bucket).get_component("data_loader")
        rules = loader.load_service_model("s3", "endpoint-rule-set-1")
        provider = EndpointProvider(rules, loader.load_data("partitions"))
        return [
            answer(provider, {"Bucket": bucket, "Region": region, **more})
            for region in (*REGIONS, "aws-global", "not a region")
            for more in ANSWERS
        ]

    assert found(ours=True) == found(ours=False)
    assert any(isinstance(each, tuple) for each in found(ours=True))


def answer(provider: EndpointProvider, asked: dict[str, object]) -> object:
    """Of what is not asked the rules have a default."""
    known = {name: asked.get(name, each.default) for name, each in provider.ruleset.parameters.items()}
    try:
        where = provider.resolve_endpoint(**{name: value for name, value in known.items() if value is not None})
    except EndpointResolutionError as problem:
        return str(problem)
    return where.url, where.properties, where.headers


def test_rules_for_other_kinds_of_buckets_are_not_read() -> None:
    """A new version of botocore may write them otherwise: then they are read, and take half a MiB."""

    def size(bucket: str, *, ours: bool = True) -> int:
        loader = session(ours=ours, bucket=bucket).get_component("data_loader")
        return len(json.dumps(loader.load_service_model("s3", "endpoint-rule-set-1")))

    whole = size("bucket", ours=False)
    assert size("bucket") < whole / 2 < size("name--use1-az5--x-s3") < whole


def named(document: Any) -> set[str]:
    """The shapes that are named in it."""
    if isinstance(document, dict):
        own = {document["shape"]} if isinstance(document.get("shape"), str) else set()
        return own.union(*map(named, document.values()))
    return set().union(*map(named, document)) if isinstance(document, list) else set()


def test_every_operation_that_the_driver_calls_is_there() -> None:
    text = "".join(path.read_text() for path in (Path(__file__).parents[2] / "walkeeper" / "store" / "s3").glob("*.py"))
    called = {*re.findall(r"\bclient\.(\w+)\(", text)}
    assert "put_object" in called <= {xform_name(name) for name in CALLED}


@pytest.mark.parametrize("service", ["s3", "sts", "sso", "sso-oidc", "signin"])
def test_s3_and_what_gives_credentials_are_found_where_they_were(service: str) -> None:
    """Each service that botocore's credential providers make a client of, as far as this botocore knows it."""
    if service not in session(ours=False).get_available_services():
        pytest.skip(f"botocore {botocore.__version__} has no {service}")
    secret: Any = {"aws_access_key_id": "key", "aws_secret_access_key": "a-secret-of-the-tests"}
    theirs, ours = (
        [made.create_client(service, region_name=region, **secret).meta.endpoint_url for region in REGIONS]
        for made in (session(ours=False), session(ours=True))
    )
    assert ours == theirs


def test_only_the_model_of_s3_is_cut_wherever_botocore_lies(tmp_path: Path) -> None:
    installed, mounted = Path(botocore.__file__).parent / "data", tmp_path / "s3" / "data"
    mounted.parent.mkdir()
    mounted.symlink_to(installed)
    for service in ("sts/2011-06-15", "s3/2006-03-01"):
        there, here = (
            Documents("bucket").load_file(str(each / service / "service-2")) for each in (mounted, installed)
        )
        assert there["operations"]
        assert there == here


@pytest.mark.parametrize("name", ["endpoints", "s3/2006-03-01/service-2", "s3/2006-03-01/endpoint-rule-set-1"])
@pytest.mark.parametrize("without", [True, False])
def test_what_is_written_otherwise_than_today_is_read_as_a_whole(tmp_path: Path, name: str, *, without: bool) -> None:
    """By a version of botocore that is newer than we are, or in ~/.aws/models."""
    document = json.loads(open_whole(name))
    parts = {"endpoints": "partitions", "service-2": "operations", "endpoint-rule-set-1": "rules"}
    part = parts[name.rpartition("/")[2]]
    document[part] = {"another": "form"} if part != "operations" else ["another form"]
    if without:
        del document[part]
    there = tmp_path / f"{name}.json"
    there.parent.mkdir(parents=True, exist_ok=True)
    there.write_text(json.dumps(document))
    assert Documents("bucket").load_file(str(tmp_path / name)) == without_documentation(document)


def test_a_rule_or_a_partition_without_what_ours_have_is_read_as_a_whole(tmp_path: Path) -> None:
    rules = {"version": "1.3", "rules": [{"type": "error", "error": "without a condition"}]}
    for name, document in (
        ("s3/1/endpoint-rule-set-1", rules),
        ("endpoints", {"partitions": [{"partition": "aws-x"}]}),
    ):
        there = tmp_path / f"{name}.json"
        there.parent.mkdir(parents=True, exist_ok=True)
        there.write_text(json.dumps(document))
        assert Documents("bucket").load_file(str(tmp_path / name)) == document


def test_a_folder_of_the_users_that_may_not_be_read_is_passed_over(tmp_path: Path) -> None:
    """~/.aws/models of whoever's home it is; botocore looks there first."""

    def denied(*_: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(tmp_path))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(documents, "_OPENERS", ((".json", denied),))
        assert Documents("bucket").load_file(str(tmp_path / "endpoints")) is None


def open_whole(name: str) -> bytes:
    file = Path(botocore.__file__).parent / "data" / name
    packed = file.with_name(f"{file.name}.json.gz")
    return gzip.decompress(packed.read_bytes()) if packed.exists() else Path(f"{file}.json").read_bytes()


def test_what_is_not_there_is_none() -> None:
    assert (
        Documents("bucket").load_file("/nowhere/service-2") is None is JSONFileLoader().load_file("/nowhere/service-2")
    )


def test_what_no_call_needs_is_not_loaded() -> None:
    program = """
import sys
import walkeeper.agent.process.run
from walkeeper.store.s3.keys import S3Settings
from walkeeper.store.s3.client import build
build(S3Settings(bucket="bucket", region="eu-central-1", access_key_id="key", secret_access_key="a-secret"))
print(sys.modules["jmespath"].__class__.__name__, "difflib" in sys.modules)
"""
    answer = subprocess.run(
        [sys.executable, "-c", program],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert answer.stdout.split() == ["_Later", "False"]
