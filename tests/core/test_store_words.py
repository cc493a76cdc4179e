"""A command in a hint about one of several stores is for that store."""

from __future__ import annotations

from walkeeper.cli.main import parser
from walkeeper.core.store_words import for_store


def test_a_command_in_a_hint_is_told_the_store() -> None:
    hint = (
        "walkeeper backups shows it; walkeeper backup takes one; then walkeeper gap accept 0/3000000. walkeeper status"
    )
    told = (
        "walkeeper backups --store far shows it; walkeeper backup --store far takes one; then walkeeper gap --store far accept "
        "0/3000000. walkeeper status"
    )
    assert for_store(hint, "far") == told
    assert for_store(told, "far") == told, "it was told already"


def test_what_is_told_is_a_call_that_there_is() -> None:
    for hint in (
        "takeover --accept",
        "gap accept 0/3000000",
        "verify --rebuild",
        "backup",
        "backups",
        "expire --revoke",
    ):
        words = for_store(f"walkeeper {hint}", "far").split()
        assert parser().parse_args(words[1:]).store == "far"
