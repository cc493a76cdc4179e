"""What an agent says of commits that wait for the store, on a real server whose commits do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.agent.test_synchronous import Committing
from tests.fixtures.worlds import wait_for
from tests.parts.postgres import REPLICATOR, Postgres
from walkeeper.agent.http.metrics import exposition
from walkeeper.agent.http.report import report
from walkeeper.core import commit_words
from walkeeper.core.lsn import Lsn

pytestmark = pytest.mark.postgres


def test_p10_commits_that_wait_for_the_store_are_counted_and_shown_and_so_is_their_end(
    postgres: Postgres, tmp_path: Path
) -> None:
    with Committing(postgres, tmp_path) as one:

        def shown() -> dict[str, Any]:
            found: dict[str, Any] = report(one.running.agent)["durability"]
            return found

        end = one.commit().result(30)
        wait_for(lambda: shown()["state"] == "store" and shown()["waited_for"] is True)
        assert Lsn.parse(shown()["acknowledged"]) > end
        assert shown()["waiting_commits"] is None  # the role may not see it
        postgres.execute(f"GRANT pg_read_all_stats TO {REPLICATOR}")
        wait_for(lambda: shown()["waiting_commits"] == 0)
        one.held.open.clear()
        commits = [one.commit() for _ in range(3)]
        wait_for(lambda: shown()["state"] == "waiting" and (shown()["waiting_commits"] or 0) >= 3)
        assert commit_words.now(shown()).startswith("wait: nothing was acknowledged for ")
        text = exposition(lambda: report(one.running.agent), "")[1].decode()
        assert "walkeeper_commits_waiting " in text
        one.held.open.set()
        for commit in commits:
            commit.result(30)
        wait_for(lambda: shown()["state"] == "store" and shown()["waiting_commits"] == 0)
