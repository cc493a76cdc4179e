"""Every fix that doctor prints, and the test that does as it says. ``test_doctor_fixes.py`` holds the rules to this table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, TypeAlias


@dataclass(frozen=True, slots=True)
class Person:
    """A person's work: why no test types it."""

    why: str


By: TypeAlias = str | Person

PAPER: Final = "test_what_is_typed_as_it_is_printed_fixes"
CLOCK: Final = Person("a test must not set the host's clock")
SHOWS: Final = Person("it shows more of what is wrong; what to do depends on that")
PROGRAM: Final = Person("another program is to be installed")
ROOM: Final = Person("a larger disk, or another one")
HINT: Final = Person("the hint of an error: tests/hints.py")
WAITS: Final = Person("it becomes right by itself")

FIXES: Final[tuple[tuple[str, str, By], ...]] = (
    # Rule, a piece of what is printed (the first that is found counts), the test.
    ("server_answers", "- host ", "test_pg_hba_and_a_password_as_they_are_printed_let_walkeeper_in"),
    ("server_answers", ":PASSWORD", "test_pg_hba_and_a_password_as_they_are_printed_let_walkeeper_in"),
    ("server_answers", "sslpassword", "test_a_key_with_a_pass_phrase_opens_and_the_phrase_shows_nowhere"),
    ("server_answers", "patronictl", SHOWS),
    ("replication_allowed", "- host ", "test_pg_hba_and_a_password_as_they_are_printed_let_walkeeper_in"),
    ("replication_allowed", "max_wal_senders", PAPER),
    ("role_may_replicate", "ALTER ROLE", "test_a_server_that_refuses_replication_or_the_role"),
    ("server_version", "", PROGRAM),
    ("wal_level", "", PAPER),
    ("max_wal_senders", "", PAPER),
    ("max_replication_slots", "", PAPER),
    ("max_slot_wal_keep_size", "ALTER SYSTEM", "test_a_hold_slot_that_is_used_or_lost_is_right_again_as_it_is_printed"),
    ("max_slot_wal_keep_size", "", PAPER),
    ("idle_replication_slot_timeout", "", PAPER),
    ("synchronous_standby_names", "# take", Person("a line is taken out of a file")),
    ("synchronous_standby_names", "", PAPER),
    ("pre_promote", "", PAPER),
    ("synchronous_mode", "", PAPER),
    ("check_timeline", "", PAPER),
    ("maximum_lag_on_failover", "", PAPER),
    ("synchronous_commit", "", PAPER),
    ("one_acknowledges", "psql", SHOWS),
    ("patroni_version", "", PROGRAM),
    ("slot_declared", "", PAPER),
    ("use_slots", "", PAPER),
    ("nofailover", "", PAPER),
    ("failsafe_mode", "", PAPER),
    ("pending_restart", "", PAPER),
    ("not_paused", "", PAPER),
    ("callbacks", "", PAPER),
    ("callbacks_called", "reload", "test_callbacks_that_are_missing_wrong_or_never_called"),
    ("restore_command", "", PAPER),
    ("restore_command_runs", "", PAPER),
    ("archive_settings", "", PAPER),
    ("archive_command_works", "", "test_settings_of_postgresql"),
    ("same_cluster", "takeover", "test_after_a_major_upgrade_a_new_archive_begins_when_a_person_says_so_and_the_old_one_goes_on_after_a_rollback"),
    ("same_cluster", "reinit", "test_a_member_is_built_again_and_another_promoted_as_it_is_printed"),
    ("same_cluster", "patronictl", SHOWS),
    ("same_cluster", "another prefix", Person("a new archive is a decision")),
    ("leaders_timeline", "reinit", "test_a_member_is_built_again_and_another_promoted_as_it_is_printed"),
    ("standby_follows", "reinit", "test_a_member_is_built_again_and_another_promoted_as_it_is_printed"),
    ("one_branch", "switchover", "test_a_member_is_built_again_and_another_promoted_as_it_is_printed"),
    ("one_branch", "reinit", "test_a_member_is_built_again_and_another_promoted_as_it_is_printed"),
    ("newest_timeline", "switchover", "test_a_member_is_built_again_and_another_promoted_as_it_is_printed"),
    ("gap_safe", "pg_terminate_backend", "test_a_hold_slot_that_is_used_or_lost_is_right_again_as_it_is_printed"),
    ("gap_safe", "pg_drop_replication_slot", "test_a_hold_slot_that_is_used_or_lost_is_right_again_as_it_is_printed"),
    ("gap_safe", "max_slot_wal_keep_size", PAPER),
    ("gap_safe", "status", WAITS),
    ("gap_safe", "patronictl", WAITS),
    ("clocks", "", CLOCK),
    ("base_backup", "backup -c", "test_what_a_schedule_lacks_is_done_as_it_is_printed"),
    ("base_backup", "backups -c", SHOWS),
    ("schedules", "--reload", "test_what_a_schedule_lacks_is_done_as_it_is_printed"),
    ("backup_member", "full_page_writes", PAPER),
    ("backup_member", "", Person("where an agent is to run; agent_runs starts it")),
    ("incrementals", "summarize_wal", PAPER),
    ("incrementals", "identity_file", Person("where the private key may be is a decision")),
    ("incrementals", "", Person("a newer PostgreSQL, or a line that is taken out of a file")),
    ("proof_member", "", Person("where an agent is to run; agent_runs starts it")),
    ("backup_in_time", "backup -c", "test_what_a_schedule_lacks_is_done_as_it_is_printed"),
    ("backup_in_time", "status", SHOWS),
    ("restore_proved", "install -d", "test_directories_are_made_as_it_is_printed"),
    ("restore_proved", "verify -c", "test_what_a_schedule_lacks_is_done_as_it_is_printed"),
    ("restore_proved", "status", SHOWS),
    ("restore_proved", "another disk", ROOM),
    ("restore_proved", "identity_file", Person("where the private key may be is a decision")),
    ("retention", "", PAPER),
    ("dcs_answers", "", HINT),
    ("compare_and_set", "etcdctl", "test_a_dcs_that_may_only_be_read"),
    ("record_owned", "--detach", "test_an_agent_that_does_not_run_is_seen_from_every_node"),
    ("record_owned", "", SHOWS),
    ("etcd_has_room", "etcdctl", "test_etcd_that_nobody_compacts_is_told_of_until_the_fix_is_typed"),
    ("frontier_moves", "", SHOWS),
    ("store_answers", "", HINT),
    ("store_allows", "", HINT),
    ("store_creates_only", "overwrite_guard", PAPER),
    ("store_creates_only", "", HINT),
    ("store_keeps_versions", "", Person("the aws program is not in the tests' environment; typed by hand on SeaweedFS, 2026-11-28")),
    ("store_clock", "", CLOCK),
    ("store_is_the_same", "", Person("the nodes' files and mounts are to be compared")),
    ("no_gaps", "accept", "test_a_slot_that_was_limited_costs_a_recorded_gap_and_no_more"),
    ("spool_private", "chown", Person("only root can give a file away")),
    ("spool_private", "chmod", "test_a_spool_that_others_can_read_or_that_has_no_room"),
    ("spool_private", "install -d", "test_directories_are_made_as_it_is_printed"),
    ("spool_room", "df ", ROOM),
    ("spool_room", "limit", PAPER),
    ("receiver", "", HINT),
    ("encryption", "identity_file", PAPER),
    ("encryption", "", HINT),
    ("authentication", "", "test_a_key_for_codes_is_made_as_it_is_printed"),
    ("agent_runs", "--detach", "test_an_agent_that_does_not_run_is_seen_from_every_node"),
    ("disk_room", "", ROOM),
    ("same_stores", "", Person("two files are edited")),
    ("agent_version", "install walkeeper", PROGRAM),
    ("agent_version", "--restart", "test_an_agent_of_another_version_is_seen_from_every_node"),
    ("agent_troubles", "", HINT),
    ("agent_configuration", "--reload", "test_a_spool_that_others_can_read_or_that_has_no_room"),
    ("agent_configuration", "is that meant", "test_moving_the_archive_to_another_store_loses_nothing"),
)  # fmt: skip
