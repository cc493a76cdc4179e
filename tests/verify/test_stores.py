"""verify, list and backups where there are several stores: each is looked at, whatever the others say."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.fixtures.two_stores import FAR, TwoStores, is_away, two
from walkeeper.backup import list_command as backups
from walkeeper.config import Config
from walkeeper.verify import command, list_command

__all__ = ["two"]


def verify(config: Config, **request: Any) -> int:
    return command.main(config, command.Request(**request))


def test_verify_goes_over_all_stores_under_headings(two: TwoStores, capsys: pytest.CaptureFixture[str]) -> None:
    assert verify(two.config) == 0
    out = capsys.readouterr().out
    main, far = out.split("\n\n\n")
    assert main.startswith(f"Store main: {two.main.store.url}\n\nArchive   ")
    assert far.startswith(f"Store far: {two.far.store.url}\n\nArchive   ")
    assert out.count("Sound: ") == 2


def test_damage_in_one_store_counts_and_one_that_cannot_be_asked_keeps_none_from_being_verified(
    two: TwoStores, capsys: pytest.CaptureFixture[str]
) -> None:
    two.far.store.delete(two.far.key(1, 4))
    assert verify(two.config) == 1
    assert "Sound: " in capsys.readouterr().out
    is_away(two.main)
    assert verify(two.config) == 1, "a gap counts, whatever else cannot be told"
    out, err = capsys.readouterr()
    assert "Damaged: " in out
    assert err.startswith("walkeeper: store main: ")


def test_one_document_has_all_stores(two: TwoStores, capsys: pytest.CaptureFixture[str]) -> None:
    is_away(two.main)
    assert verify(two.config, json=True) == 2
    found = json.loads(capsys.readouterr().out)
    assert (found["format"], found["verdict"], found["exit_code"]) == (1, "cannot tell", 2)
    main, far = found["stores"]
    assert (main["name"], main["verdict"], far["name"], far["verdict"]) == ("main", "cannot tell", FAR, "sound")
    assert main["problem"].startswith("store main: ")
    verify(two.config.of_only(FAR), json=True)
    assert {"name": FAR, **json.loads(capsys.readouterr().out)} == far


def test_one_store_alone_is_as_if_there_were_no_other(two: TwoStores, capsys: pytest.CaptureFixture[str]) -> None:
    is_away(two.main)
    assert verify(two.config.of_only(FAR)) == 0
    assert capsys.readouterr().out.startswith("Archive   ")


def test_a_lost_record_is_written_again_for_its_store(two: TwoStores) -> None:
    two.dcs.wipe("walkeeper-far")
    assert verify(two.config.of_only(FAR), rebuild=True) == 0
    assert two.records(two.config.of_store(FAR)).read() is not None
    two.dcs.wipe()
    two.dcs.wipe("walkeeper-far")
    assert verify(two.config, rebuild=True, json=True) == 0, "all of them, when the DCS is lost"
    assert set(two.dcs.documents) == {"walkeeper", "walkeeper-far"}


def test_list_and_backups_show_each_store(two: TwoStores, capsys: pytest.CaptureFixture[str]) -> None:
    assert list_command.main(two.config, timeline=None, system_identifier=None, json=False) == 0
    assert capsys.readouterr().out.count("\nArchive   ") == 2
    assert backups.main(two.config, system_identifier=None, json=True) == 0
    assert [each["name"] for each in json.loads(capsys.readouterr().out)["stores"]] == ["main", FAR]
