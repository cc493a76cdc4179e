"""The settings of a restored server: a recovery that ends where it should, and a start that needs nothing of another host."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from walkeeper.restore.directory import settings as module
from walkeeper.restore.directory.settings import (
    auto_conf,
    over_auto_conf,
    restore_command,
    start_command,
    start_conf,
    tablespace_map,
)

CONTROL = """pg_control version number:            1300
max_connections setting:              1321
max_worker_processes setting:         8
max_prepared_xacts setting:           5
"""


def test_the_recovery_is_in_the_file_that_goes_before_all_others_and_only_once() -> None:
    before = b"# alter system\nwork_mem = '4MB'\nRecovery_Target_Name 'old'\nprimary_conninfo=''\nssl = on\n"
    once, aside = auto_conf(before, {"restore_command": "/bin/x 'y' %f", "recovery_target_lsn": "0/1"})
    assert aside == ["ssl"]
    text = once.decode()
    assert "work_mem = '4MB'\n# set aside by walkeeper restore: ssl = on\n" in text
    assert "restore_command = '/bin/x ''y'' %f'\nrecovery_target_lsn = '0/1'\n" in text
    assert "old" not in text
    assert "primary_conninfo" not in text
    again, aside = auto_conf(once, {"recovery_target": "immediate"})
    assert aside == []
    assert b"recovery_target_lsn" not in again
    assert again.count(b"recovery_target") == 1


def test_what_belongs_to_another_host_is_left_out_wherever_it_is_included_from(tmp_path: Path) -> None:
    (tmp_path / "conf.d").mkdir()
    (tmp_path / "conf.d" / "1.conf").write_text("jit = off\narchive_command 'cp %p /x'\n")
    (tmp_path / "conf.d" / "not.txt").write_text("jit = on\n")
    (tmp_path / "base.conf").write_text("shared_buffers = 16MB # small\nhba_file = '/etc/x'\ninclude 'base.conf'\n")
    (tmp_path / "postgresql.conf").write_text(
        "  # Patroni\ninclude 'base.conf'\ninclude_dir = 'conf.d'\ninclude_if_exists '/nowhere/x'\n"
        "listen_addresses='10.0.0.1'\nwal_keep_size = 99GB\nsynchronous_standby_names = '*'\npg_stat_statements.max = 10\nlog_statement = all\n"
        "\xff = 1\n",
        encoding="latin-1",
    )
    lines = start_conf(tmp_path, CONTROL).decode("utf-8", "surrogateescape").splitlines()
    settings = [line for line in lines if line and not line.startswith("#")]
    assert "shared_buffers = 16MB # small" in settings
    assert "jit = off" in settings
    assert "pg_stat_statements.max = 10" in settings
    assert "log_statement = all" in settings
    assert "listen_addresses = ''" in settings
    assert "max_connections = '1321'" in settings
    assert "max_logical_replication_workers = '0'" in settings  # else subscriptions take what the real server needs
    assert "max_prepared_transactions = '100'" in settings
    assert f"data_directory = '{tmp_path}'" in settings
    assert f"hba_file = '{tmp_path}/walkeeper_hba.conf'" in settings
    assert not any(
        word in line
        for line in settings
        for word in ("archive", "include", "10.0.0.1", "99GB", "synchronous", "= on", "etc")
    )


@pytest.mark.timeout(60)
def test_p16_what_is_no_file_and_what_includes_itself_ten_times_holds_nobody_up(tmp_path: Path) -> None:
    """Whoever opens a named pipe waits for a writer."""
    (tmp_path / "conf.d").mkdir()
    for pipe in ("pipe", "conf.d/2.conf"):
        os.mkfifo(tmp_path / pipe)
    (tmp_path / "conf.d" / "1.conf").write_text("jit = off\n")
    (tmp_path / "more.conf").write_text("include 'more.conf'\n" * 10 + "work_mem = 1MB\n")
    (tmp_path / "postgresql.conf").write_text(
        "include 'pipe'\ninclude_dir 'conf.d'\ninclude '/dev/zero'\ninclude 'a\0b'\ninclude_dir 'a\0b'\n"
        "include 'more.conf'\nseq_page_cost = 2\n"
    )
    lines = start_conf(tmp_path, CONTROL).decode().split("\n")
    assert f"# {tmp_path}/pipe: it is not a regular file" in lines
    assert f"# {tmp_path}/conf.d/2.conf: it is not a regular file" in lines
    assert "# /dev/zero: it is not a regular file" in lines
    assert "jit = off" in lines
    assert "seq_page_cost = 2" in lines
    assert [line for line in lines if "200" in line] == [
        f"# {tmp_path}/more.conf: it is not read, nor is what comes later, as 200 files were"
    ]
    assert len(lines) < 3000


def test_a_file_is_read_as_postgresql_reads_it(tmp_path: Path) -> None:
    """A form feed ends no line, and between a name and its value nothing need stand."""
    text = "# one\x0ctwo\nlog_line_prefix = '%m \u2028\x85'\nlisten_addresses'*'\nrecovery_end_command'x'\n"
    found, aside = auto_conf(text.encode(), {"restore_command": "x"})
    assert aside == ["listen_addresses"]
    kept, _, ours = found.decode().partition("# --- ")
    aside_line = "# set aside by walkeeper restore: listen_addresses'*'\n"
    assert kept == f"# one\x0ctwo\nlog_line_prefix = '%m \u2028\x85'\n{aside_line}"
    assert auto_conf(found, {"restore_command": "x"})[0] == found
    assert "x" in ours
    (tmp_path / "postgresql.conf").write_text(text + "include'more.conf'\n")
    (tmp_path / "more.conf").write_text("jit'off'\n")
    lines = start_conf(tmp_path, "").decode().split("\n")
    assert "log_line_prefix = '%m \u2028\x85'" in lines
    assert "jit'off'" in lines
    assert [line for line in lines if "two" in line or "'*'" in line or "recovery" in line] == []


def test_without_a_configuration_in_the_backup_there_is_one(tmp_path: Path) -> None:
    text = start_conf(tmp_path, "").decode()
    assert "postgresql.conf: No such file" in text


def test_large_segments_have_the_room_without_which_postgresql_does_not_start(tmp_path: Path) -> None:
    """Debian keeps postgresql.conf in /etc: what initdb set for the size of segments is not in the backup."""
    (tmp_path / "postgresql.conf").write_text("min_wal_size = 9GB\n")
    text = start_conf(tmp_path, f"{CONTROL}Bytes per WAL segment:                {1 << 30}\n").decode()
    assert text.index("min_wal_size = '2048MB'") < text.index("min_wal_size = 9GB"), "the backup's own word counts"
    assert "max_wal_size = '2048MB'" in text
    small = start_conf(tmp_path, f"{CONTROL}Bytes per WAL segment:                {1 << 24}\n").decode()
    assert "'32MB'" not in small


@pytest.mark.parametrize("written", ["= 64GB", "'64 GB' # large", "= 8388608", "= '65536MB'", "67108864kB"])
def test_a_smaller_host_starts_what_a_larger_one_had(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: str
) -> None:
    """On the worst day it is the host that is left."""
    limit = tmp_path / "memory.max"
    limit.write_text(f"{128 << 30}\n")
    monkeypatch.setattr(module, "_LIMIT", limit)
    monkeypatch.setattr(os, "sysconf", lambda _: 1 << 20)
    line = f"shared_buffers {written}"
    (tmp_path / "postgresql.conf").write_text(f"{line}\nhuge_pages = on\nio_method = io_uring\nwork_mem = 64GB\n")
    auto = f"{line}\nHuge_Pages = on\n".encode()
    assert line in start_conf(tmp_path, "").decode().splitlines()
    assert auto_conf(auto, {})[1] == ["huge_pages"]
    limit.write_text(f"{100 << 30}\n")
    lines = start_conf(tmp_path, "").decode().splitlines()
    assert [each for each in lines if "shared_buffers" in each] == [f"# {line}", "shared_buffers = '25600MB'"]
    assert "work_mem = 64GB" in lines
    assert not any("huge_pages" in each or "io_method" in each for each in lines)
    assert auto_conf(auto, {})[1] == ["shared_buffers", "huge_pages"]
    assert auto_conf(auto, {}, keep=True)[1] == []
    limit.write_text("max\n")
    assert line in start_conf(tmp_path, "").decode().splitlines()


def test_limits_that_the_primary_was_given_later_do_not_pause_the_recovery(tmp_path: Path) -> None:
    """The highest that the control file, the configuration and ALTER SYSTEM say, and no less than most clusters have."""
    (tmp_path / "postgresql.conf").write_text("max_connections = 2000 # from the next restart\nmax_wal_senders '70'\n")
    (tmp_path / "postgresql.auto.conf").write_text("max_connections = '400'\nMax_Worker_Processes = '80'\n")
    text = start_conf(tmp_path, CONTROL)
    (tmp_path / "walkeeper.conf").write_bytes(text)
    last = dict(line.split(" = ") for line in text.decode().splitlines() if " = '" in line)
    assert last["max_connections"] == "'2000'"
    assert last["max_wal_senders"] == "'70'"
    assert last["max_locks_per_transaction"] == "'256'"
    assert over_auto_conf(tmp_path) == " -c max_connections=2000 -c max_worker_processes=80"
    (tmp_path / "postgresql.auto.conf").unlink()
    assert over_auto_conf(tmp_path) == ""
    assert over_auto_conf(tmp_path / "nowhere") == ""


def test_commands_survive_a_shell_and_postgresql() -> None:
    told = restore_command("/opt/my tools/walkeeper-restore-wal", Path("/etc/100%.yml"), "it's")
    assert told == "PATRONI_SCOPE='it'\"'\"'s' '/opt/my tools/walkeeper-restore-wal' -c /etc/100%%.yml %f %p"
    command = start_command("/bin/pg_ctl", Path("/a b"))
    assert (
        command
        == "/bin/pg_ctl -D '/a b' -o '-c config_file='\"'\"'/a b/walkeeper.conf'\"'\"'' -l '/a b/walkeeper.log' -t 86400 start"
    )
    assert tablespace_map({2: Path("/a\\b\nc"), 1: Path("/x")}) == b"1 /x\n2 /a\\\\b\\\nc\n"
