"""That botocore finds in what we let it read all that it would find by itself, but what is for people or other services."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final

import botocore
import botocore.session
import pytest
from botocore import xform_name
from botocore.loaders import JSONFileLoader, Loader

from walkeeper.store.s3.documents import CALLED, Documents

REGIONS: Final = ("us-east-1", "eu-central-1", "cn-north-1", "us-gov-west-1")


def session(*, ours: bool) -> botocore.session.Session:
    made = botocore.session.Session()
    made.register_component("data_loader", Loader(file_loader=Documents() if ours else None))  # tests share one else
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
    [("s3", "endpoint-rule-set-1"), ("sts", "service-2"), ("s3", "paginators-1")],
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
    """Each service that botocore's credential providers make a client of."""
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
        there, here = (Documents().load_file(str(each / service / "service-2")) for each in (mounted, installed))
        assert there["operations"]
        assert there == here


def test_what_is_not_there_is_none() -> None:
    assert Documents().load_file("/nowhere/service-2") is None is JSONFileLoader().load_file("/nowhere/service-2")
