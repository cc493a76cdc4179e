"""The times of windows, as verify and list show them."""

from __future__ import annotations

import json
from pathlib import Path

import pyrage
import pytest

from tests.core.values import commit_record, message_record, wal_of
from tests.fixtures.archives import ONE, SIZE, SYSTEM, Built, Verifier, replaced
from walkeeper.archive.codec import Codec
from walkeeper.verify import list_command


def put(built: Built, *without: int, codec: Codec | None = None) -> None:
    """Segments 3 to 6, with a commit at each full minute; behind the last one are zeros, as if there were a switch."""
    records = [
        record
        for minute in range(10)
        for record in (message_record(390_000), commit_record(minute * 60_000_000 + 123_456))
    ]
    segments, _ = wal_of(ONE, SIZE, SYSTEM, 3, records)
    packed = codec or Codec()
    for segment, plain in segments.items():
        if segment.number not in without:
            built.store.create(built.archive.layout.file(segment, packed.suffix), packed.encode(plain), {})
    built.record(1, 3 + len(segments))


def test_each_window_has_the_times_of_its_first_and_last_commit(
    built: Built, verify: Verifier, capsys: pytest.CaptureFixture[str]
) -> None:
    put(built)
    (window,) = verify().document["windows"]
    assert window["first_commit"] == {"time": "2000-01-01T00:00:00.123456Z", "lsn": "0/35F800"}
    assert window["last_commit"]["time"] == "2000-01-01T00:09:00.123456Z"
    line = "          commits 2000-01-01 00:00:00.123456 to 2000-01-01 00:09:00.123456 UTC\n"
    assert line in verify(json=False).out
    assert list_command.main(built.config, timeline=None, system_identifier=None, json=False) == 0
    assert line in capsys.readouterr().out
    assert list_command.main(built.config, timeline=1, system_identifier=None, json=True) == 0
    assert json.loads(capsys.readouterr().out)["windows"] == [window]


def test_beside_a_gap_a_window_has_only_the_times_that_it_reaches(built: Built, verify: Verifier) -> None:
    """A record that goes on in the gap is not restored."""
    put(built, 5)
    times = [
        (window["first_commit"]["time"][14:19], window["last_commit"]["time"][14:19])
        for window in verify().document["windows"]
    ]
    assert times == [("00:00", "04:00"), ("08:00", "09:00")]


def test_without_the_key_the_times_are_not_known_and_the_chain_is_sound(
    built: Built, verify: Verifier, tmp_path: Path
) -> None:
    key = pyrage.x25519.Identity.generate()
    put(built, codec=Codec(recipients=(str(key.to_public()),)))
    said = verify()
    assert (said.code, said.notes) == (0, {"times_unread"})
    assert said.document["windows"][0]["first_commit"] is None
    identity = tmp_path / "key"
    identity.write_text(f"{key}\n")
    identity.chmod(0o600)
    built.config = replaced(built, identity)
    said = verify()
    assert (said.code, said.notes) == (0, set())
    assert said.document["windows"][0]["last_commit"]["time"] == "2000-01-01T00:09:00.123456Z"
