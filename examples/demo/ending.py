"""The end of the story: both archives are restored, and the verdict."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

from examples.demo.proof import (
    Expected,
    Outcome,
    Restore,
    Restored,
    configuration,
    first_segment,
    ordinary_server,
)
from examples.demo.stage import lose_disk
from examples.demo.story import Story
from tests.parts.postgres import Postgres


class Ending:
    """``tell`` restores and compares; ``verdict`` says whether all that was promised is proven."""

    def __init__(self, story: Story, *, keep: bool) -> None:
        self.story = story
        self.stage = story.stage
        self.screen = story.screen
        self.keep = keep

    def tell(self) -> None:
        self.screen.act("A restore from the base backup and the archive alone")
        expected = self._expected()
        stored = {segment.name for segment in self.stage.archived()}
        self._weigh(expected)
        record = self.stage.record()
        config = configuration(self.stage, self.stage.directory / "restore")
        self._lose_everything()
        ours = self._restore(self._fetched(config), expected)
        server, command = ordinary_server(self.stage, self.story.backup, self.stage.directory / "restored-ordinary")
        self.screen.say(f"The other one from its base backup, with restore_command = '{command}'")
        ordinary = self._restore(server, expected)
        self._compare(expected, stored, ours, ordinary)
        self.story.check(record is not None and record.gaps_total == 0, "walkeeper knows of no gap either")

    def verdict(self) -> bool:
        """Whether everything is proven."""
        screen, checks = self.screen, self.story.checks
        proven = bool(checks) and all(good for good, _ in checks)
        screen.act("Verdict")
        for good, text in checks:
            screen.also(f"{'yes' if good else 'NO '}  {text}", "good" if good else "bad")
        screen.say(
            "PROVEN. The primary died with its archive behind, and the archive has no gap."
            if proven
            else "NOT PROVEN. See above.",
            "good" if proven else "bad",
        )
        return proven

    def _expected(self) -> Expected:
        record = self.stage.record()
        assert record is not None
        history = self.stage.archive().contents.history(record.timeline)
        assert history is not None
        covered = self.story.ledger.covered(history, record.position)
        return Expected(history, first_segment(self.story.backup), record.position, covered)

    def _weigh(self, expected: Expected) -> None:
        """What must come back, and what cannot."""
        rows = self.story.ledger.rows()
        newer = [row for row in rows if row.timeline == expected.history.timeline and row.lsn > expected.frontier]
        lost = len(rows) - len(expected.rows) - len(newer)
        self.screen.say(
            f"{len(expected.rows):,} acknowledged rows lie below the last frontier, {expected.frontier} on timeline "
            f"{expected.history.timeline}, and must come back. Newer than the frontier: {len(newer)}."
        )
        self.screen.also(
            f"Acknowledged by the dead primary and on no replica: {lost}. Replication is asynchronous: those rows the cluster "
            f"itself has lost, whatever archives it."
        )

    def _lose_everything(self) -> None:
        if self.keep:
            self.screen.say("With --keep the cluster stays up. The restores do not use it.")
            return
        for node in self.stage.cluster.nodes:
            self.stage.cluster.kill_host(node)
            lose_disk(node)
        self.stage.cluster.etcd.kill()
        self.screen.say(
            "All three nodes and etcd are killed, their disks are gone. Left: two archives, a base backup for each."
        )

    def _fetched(self, config: Path) -> Restored:
        """Walkeeper's base backup, in a data directory that can be started."""
        screen = self.screen
        screen.say("From the store and a configuration of its own, which says where the store is:")
        restored = Restored(self.stage, self.stage.directory / "restored-walkeeper", config)
        screen.block(" ".join(restored.command))
        begun = time.monotonic()
        restored.fetch()
        screen.say(f"{time.monotonic() - begun:.1f} s. It prints the command that starts the server:")
        screen.block(restored.printed)
        return restored

    def _restore(self, server: Postgres, expected: Expected) -> Outcome:
        screen = self.screen
        restore = Restore(server, len(expected.chain()))
        try:
            with screen.showing(restore.figures):
                outcome = restore.run(self.story.ledger, expected, lambda: screen.elapsed)
        finally:
            restore.close()
            shutil.rmtree(server.directory)
        end = expected.history.segment_at(outcome.ends_at, expected.first.size)
        screen.say(
            f"It opens after {outcome.seconds:.1f} s without an error, recovered to {outcome.ends_at} on timeline "
            f"{end.timeline}, with {outcome.rows:,} rows{_unknown(outcome, expected)}.",
            "alarm" if outcome.lacking else "good",
        )
        return outcome

    def _compare(self, expected: Expected, stored: set[str], ours: Outcome, ordinary: Outcome) -> None:
        chain = [segment.name for segment in expected.chain()]
        holes = [name for name in chain if name not in stored]
        theirs = [name for name in chain if name not in self.stage.ordinarily_archived()]
        self.screen.table(
            [
                ("", "archive_command", "walkeeper"),
                ("segments from the backup to the frontier", str(len(chain)), str(len(chain))),
                ("  of them missing in the archive", str(len(theirs)), str(len(holes))),
                ("acknowledged rows below the frontier", f"{len(expected.rows):,}", f"{len(expected.rows):,}"),
                ("  of them missing after the restore", f"{len(ordinary.lacking):,}", f"{len(ours.lacking):,}"),
                ("recovery ended at", str(ordinary.ends_at), str(ours.ends_at)),
            ]
        )
        if theirs and ordinary.lacking:
            self.screen.also(f"The ordinary archive lacks {theirs[0]} and PostgreSQL took that for the end of the WAL.")
        check = self.story.check
        check(not holes, f"all {len(chain)} segments from the base backup to the frontier are in walkeeper's archive")
        check(not ours.lacking, f"all {len(expected.rows):,} rows acknowledged before the frontier are restored")
        check(ours.altered == 0, "each restored row is what was written")


def _unknown(outcome: Outcome, expected: Expected) -> str:
    """A commit that the server made and could no longer acknowledge: the row may be there, or not."""
    more = outcome.rows - (len(expected.rows) - len(outcome.lacking))
    return f" ({more} of them committed, but killed before they were acknowledged)" if more > 0 else ""
