"""What lies in examples/ is used by people as it is: everything that can be run here is run, the rest is read."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from examples.grafana.__main__ import dashboard
from tests.fixtures.agents import SIZE, Machine
from tests.fixtures.worlds import HOLD_SLOT, prepare
from tests.parts.etcd import Etcd, etcd_program
from tests.parts.postgres import Postgres
from tests.parts.processes import new_directory, wait_until
from tests.test_docs import anchors
from walkeeper import errors
from walkeeper.agent.http import metrics
from walkeeper.config import load
from walkeeper.core.lsn import Lsn
from walkeeper.core.names import Segment

ROOT: Final = Path(__file__).parents[1]
EXAMPLES: Final = ROOT / "examples"
RULES: Final = EXAMPLES / "prometheus" / "alerts.yml"
PROMTOOL: Final = shutil.which("promtool")
NO_PROMTOOL: Final = "no promtool here: it comes with Prometheus (Debian's package prometheus)"


def alerts() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def known_metrics() -> set[str]:
    return set(re.findall(r"^\| `(walkeeper_\w+)` \|", metrics.reference(), re.MULTILINE))


def known_reasons() -> set[str]:
    """Of every error class, wherever it is defined."""
    found = {errors.WalkeeperError.reason}
    for path in (ROOT / "walkeeper").rglob("*.py"):
        found.update(re.findall(r"^class .*\breason=\"(\w+)\"", path.read_text(), re.MULTILINE))
    assert errors.StoreDenied.reason in found
    return found


# --------------------------------------------------------------------------------------------- Prometheus and Grafana


@pytest.mark.parametrize("rule", alerts(), ids=lambda rule: str(rule["alert"]))
def test_an_alert_asks_for_what_is_served_and_says_what_to_do(rule: dict[str, Any]) -> None:
    named = set(re.findall(r"\bwalkeeper_\w+", rule["expr"]))
    assert named <= known_metrics()
    assert named or rule["expr"].startswith("up{")
    assert rule["labels"]["severity"] in ("critical", "warning")
    assert set(rule["annotations"]) == {"summary", "description", "runbook_url"}
    document, _, anchor = rule["annotations"]["runbook_url"].partition("#")
    assert anchor in anchors(ROOT / document)
    for pattern in re.findall(r'reason(?:=|=~|!~)"([^"]+)"', rule["expr"]):
        for part in pattern.split("|"):
            assert any(re.fullmatch(part, reason) for reason in known_reasons()), part


def test_the_metrics_document_names_each_critical_alert_and_none_that_is_not_there() -> None:
    named = set(re.findall(r"`(Walkeeper\w+)`", metrics.reference()))
    critical = {rule["alert"] for rule in alerts() if rule["labels"]["severity"] == "critical"}
    assert critical
    assert critical <= named <= {rule["alert"] for rule in alerts()}


def test_every_lasting_problem_brings_an_alert() -> None:
    """WalkeeperOtherTrouble leaves out what another alert speaks of, and nothing else."""
    patterns = [p for rule in alerts() for p in re.findall(r'walkeeper_trouble\{reason=~?"([^"]+)"', rule["expr"])]
    (left_out,) = (p for rule in alerts() for p in re.findall(r'walkeeper_trouble\{reason!~"([^"]+)"', rule["expr"]))
    of_others = {reason for reason in known_reasons() if any(re.fullmatch(p, reason) for p in patterns)}
    by_other_metrics = {"not_gap_safe", "wal_missing"}
    assert {r for r in known_reasons() if re.fullmatch(left_out, r)} == of_others | by_other_metrics


@pytest.mark.skipif(PROMTOOL is None, reason=NO_PROMTOOL)
def test_prometheus_takes_the_rules_and_they_alarm_when_they_should(short_path: Path) -> None:
    expected = [{"labels": f'{{alertname="{rule["alert"]}"}}', "value": 1} for rule in alerts()]
    problems = {"WalkeeperRefused", "WalkeeperStoreTrouble", "WalkeeperRecordUnreadable", "WalkeeperOtherTrouble"}
    assert problems <= {rule["alert"] for rule in alerts()}
    text = (ROOT / "tests" / "alerts_test.yml").read_text()
    test = short_path / "test.yml"
    test.write_text(text.replace("RULES", str(RULES)).replace("EXPECTED", json.dumps(expected)))
    for word, file in (("check", RULES), ("test", test)):
        done = subprocess.run(
            [PROMTOOL or "", word, "rules", file], capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.skipif(PROMTOOL is None, reason=NO_PROMTOOL)
def test_prometheus_takes_the_scrape_configuration(short_path: Path) -> None:
    for name in ("scrape.yml", "alerts.yml"):
        shutil.copy(EXAMPLES / "prometheus" / name, short_path)
    subprocess.run(
        [PROMTOOL or "", "check", "config", short_path / "scrape.yml"], check=True, timeout=60, capture_output=True
    )


def test_the_dashboard_is_made_from_its_program_and_shows_what_is_served() -> None:
    written = json.loads((EXAMPLES / "grafana" / "walkeeper.json").read_text())
    ids = [panel.pop("id") for panel in written["panels"]]
    made = json.loads(json.dumps(dashboard()))
    for panel in made["panels"]:
        panel.pop("id")
    assert written == made, "run: python -m examples.grafana > examples/grafana/walkeeper.json"
    assert len(ids) == len(set(ids))
    expressions = [target["expr"] for panel in made["panels"] for target in panel["targets"]]
    assert [mark["titleFormat"] for mark in made["annotations"]["list"]] == ["{{member}} took over"]
    named = {name for expression in expressions for name in re.findall(r"\bwalkeeper_\w+", expression)}
    assert named <= known_metrics()
    assert known_metrics() - named <= {"walkeeper_server_lsn_bytes"}, "a metric that nobody would see"


@pytest.mark.skipif(PROMTOOL is None, reason=NO_PROMTOOL)
def test_prometheus_understands_the_dashboards_expressions(short_path: Path) -> None:
    rules = [
        {"record": "x", "expr": target["expr"].replace("$scope", "demo")}
        for shown in [*dashboard()["panels"], {"targets": dashboard()["annotations"]["list"]}]
        for target in shown["targets"]
    ]
    file = short_path / "rules.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": f"g{n}", "rules": [rule]} for n, rule in enumerate(rules)]}))
    done = subprocess.run(
        [PROMTOOL or "", "check", "rules", "--lint=none", file], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_panels_do_not_lie_on_each_other() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in dashboard()["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert at["x"] + at["w"] <= 24
        assert not cells & taken, panel["title"]
        taken |= cells


# ------------------------------------------------------------------------------------------------------ configuration


@pytest.mark.parametrize("name", ["patroni.yml", "patroni.minimal.yml", "container/patroni.yml"])
def test_a_configuration_is_taken_as_it_is(short_path: Path, name: str) -> None:
    path = short_path / "patroni.yml"
    path.touch(mode=0o600)
    secret = short_path / "secret"
    secret.touch(mode=0o600)
    secret.write_text("x")
    text = (EXAMPLES / name).read_text().replace("@NAME@", "node1")
    for file in ("/etc/walkeeper/s3-secret", "/etc/ssl/certs/ca-certificates.crt"):
        text = text.replace(file, str(secret))
    path.write_text(text)
    config = load(path, {}, for_agent=True)
    assert config.scope == "demo"
    assert text.count("walkeeper-restore-wal -c") == 1
    assert text.count("walkeeper callback -c") >= 3
    assert "walkeeper: {type: physical}" in text


@pytest.mark.parametrize("name", ["patroni.yml", "patroni.minimal.yml"])
def test_an_example_lets_in_whoever_connects(name: str) -> None:
    """Patroni's own session comes from 127.0.0.1, without which no cluster is made; the agents' and replicas' come from both."""
    lines = [line.split() for line in yaml.safe_load((EXAMPLES / name).read_text())["postgresql"]["pg_hba"]]

    def enters(database: str, user: str, address: str) -> bool:
        databases = {database} if database == "replication" else {database, "all"}
        return any(line[1] in databases and line[2] in (user, "all") and line[3] == address for line in lines)

    wanted = [
        (database, user, address)
        for address in ("127.0.0.1/32", "10.0.0.0/24")
        for database, user in (("postgres", "postgres"), ("postgres", "replicator"), ("replication", "replicator"))
    ]
    assert [each for each in wanted if not enters(*each)] == []


def test_walkeepers_own_file_is_taken_as_it_is(short_path: Path) -> None:
    patroni = short_path / "patroni.yml"
    patroni.touch(mode=0o600)
    whole = yaml.safe_load((EXAMPLES / "patroni.minimal.yml").read_text())
    del whole["walkeeper"]
    patroni.write_text(yaml.safe_dump(whole))
    own = short_path / "walkeeper.yml"
    own.write_text((EXAMPLES / "walkeeper.yml").read_text().replace("/etc/patroni.yml", str(patroni)))
    assert load(own, {}, for_agent=True).agent.start_from_callback is False


def test_what_the_readme_says_to_merge_is_taken_and_is_refused_when_it_is_pasted_at_the_end(short_path: Path) -> None:
    (snippet,) = re.findall(r"```yaml\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    added = yaml.safe_load(snippet)
    before = yaml.safe_load((EXAMPLES / "patroni.minimal.yml").read_text())
    del before["walkeeper"], before["postgresql"]["callbacks"], before["postgresql"]["recovery_conf"]
    path = short_path / "patroni.yml"
    path.touch(mode=0o600)

    path.write_text(yaml.safe_dump(before | added | {"postgresql": before["postgresql"] | added["postgresql"]}))
    assert load(path, {}, for_agent=True).scope == "demo"

    path.write_text(yaml.safe_dump(before) + textwrap.dedent(snippet))
    with pytest.raises(errors.ConfigError, match="there twice"):
        load(path, {}, for_agent=True)


def test_the_complete_example_names_every_key() -> None:
    text = (EXAMPLES / "patroni.yml").read_text()
    section = text[text.index("walkeeper:\n") : text.index("\nbootstrap:")]
    known = {"store", "s3", "encryption", "authentication", "spool", "postgresql", "agent", "restore", "gap", "backup"}
    from walkeeper.config.keys import all_keys  # noqa: PLC0415

    known |= {"gcs", "azure"} | {key.name for key in all_keys()}
    written = set(re.findall(r"^ +(?:# )?([a-z_0-9]+):", section, re.MULTILINE))
    assert written <= known, "a key that there is not"


# ------------------------------------------------------------------------------------------------------------ systemd


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze here")
def test_systemd_takes_the_unit(short_path: Path) -> None:
    unit = short_path / "walkeeper.service"
    unit.write_text(
        (EXAMPLES / "walkeeper.service").read_text().replace("/opt/walkeeper/bin/walkeeper", sys.executable)
    )
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", unit], capture_output=True, text=True, timeout=60, check=False
    )
    complaints = [line for line in done.stderr.splitlines() if "walkeeper.service" in line]
    assert complaints == []


def test_the_units_belong_together() -> None:
    unit = (EXAMPLES / "walkeeper.service").read_text()
    assert "ExecStart=/opt/walkeeper/bin/walkeeper agent --config /etc/patroni.yml" in unit
    assert "start_from_callback: false" in unit
    assert "Wants=walkeeper.service" in (EXAMPLES / "patroni.service.d-walkeeper.conf").read_text()
    for line in unit.splitlines():
        assert not line.startswith(("BindsTo=", "PartOf=", "Requires=patroni")), "archiving outlives Patroni"


# --------------------------------------------------------------------------------------- PostgreSQL, the DCS, the store


@pytest.fixture
def machine() -> Iterator[Machine]:
    with (
        Postgres(new_directory("e") / "pg", auth="scram-sha-256") as server,
        Etcd() as etcd,
        closing(Machine("demo", server, etcd)) as made,
    ):
        yield made


@pytest.mark.postgres
def test_the_role_of_the_example_is_enough(machine: Machine) -> None:
    statements = re.sub(r"^--.*$", "", (EXAMPLES / "role.sql").read_text(), flags=re.MULTILINE)
    machine.server.execute(statements.replace(":password", "'secret'"))
    machine.server.physical_slot(HOLD_SLOT)
    rights = machine.server.execute(
        "SELECT rolsuper, rolcreatedb, rolcreaterole, rolbypassrls, rolreplication FROM pg_roles WHERE rolname = 'walkeeper'"
    )
    assert rights == [(False, False, False, False, True)]
    password = machine.directory / "password"
    password.touch(mode=0o600)
    password.write_text("secret\n")
    machine.walkeeper["postgresql"] = {"user": "walkeeper", "password_file": str(password)}
    machine.configure()
    with machine.start():
        end = machine.wait_archived(3)
        moved = "SELECT restart_lsn >= %s::pg_lsn - 1048576 FROM pg_replication_slots WHERE slot_name = %s"
        for _ in range(100):
            if machine.server.value(moved, [str(end), HOLD_SLOT]):
                break
            machine.server.execute("SELECT pg_sleep(0.1)")
        assert machine.server.value(moved, [str(end), HOLD_SLOT])


def test_the_policies_allow_what_the_store_does_and_no_more() -> None:
    calls = set(re.findall(r"client\.(\w+)\(", (ROOT / "walkeeper" / "store" / "s3" / "driver.py").read_text()))
    needed = {
        "get_bucket_versioning": "s3:GetBucketVersioning",
        "get_object_lock_configuration": "s3:GetBucketObjectLockConfiguration", "put_object": "s3:PutObject", "get_object": "s3:GetObject", "head_object": "s3:GetObject",
        "list_objects_v2": "s3:ListBucket", "delete_object": "s3:DeleteObject",
    }  # fmt: skip
    assert calls <= set(needed) | {"client"}

    def statements_of(name: str) -> list[dict[str, Any]]:
        return list(json.loads((EXAMPLES / "s3" / name).read_text())["Statement"])

    def allowed(name: str) -> dict[str, Any]:
        statements = statements_of(name)
        assert all(statement["Effect"] == "Allow" for statement in statements)
        pairs = [(s["Action"] if isinstance(s["Action"], list) else [s["Action"]], s["Resource"]) for s in statements]
        return {action: resource for actions, resource in pairs for action in actions}

    agent = allowed("policy-agent.json")
    doctor = {"s3:GetBucketVersioning", "s3:GetBucketObjectLockConfiguration"}
    assert set(agent) == {needed[call] for call in calls if call in needed} - doctor
    assert set(allowed("policy-doctor.json")) == doctor
    assert allowed("policy-lock.json") == {"s3:PutObjectRetention": "arn:aws:s3:::our-wal/postgresql/*"}
    assert [resource.partition("/postgresql/")[2] for resource in agent["s3:DeleteObject"]] == [
        "probe/*",
        "*/tail/*",
        "*/life/*",
        "*/pin/*",
    ]
    restore = allowed("policy-restore.json")
    assert set(restore) == {"s3:GetObject", "s3:ListBucket", "s3:PutObject", "s3:DeleteObject"}
    puts = [resource.partition("/postgresql/")[2] for resource in restore["s3:PutObject"]]
    assert (puts, restore["s3:DeleteObject"].partition("/postgresql/")[2]) == (["*/pin/*", "*/proof/*"], "*/pin/*")
    for name in ("policy-agent.json", "policy-restore.json"):  # nobody overwrites, whatever program he writes
        (put,) = (s for s in statements_of(name) if "s3:PutObject" in s["Action"])
        assert put["Condition"] == {"Null": {"s3:if-none-match": "false"}}


def test_the_roles_of_the_clouds_neither_overwrite_nor_delete_but_for_expire() -> None:
    gcs = {name: yaml.safe_load((EXAMPLES / "gcs" / f"role-{name}.yaml").read_text()) for name in ("agent", "delete")}
    azure = {name: json.loads((EXAMPLES / "azure" / f"role-{name}.json").read_text()) for name in ("agent", "delete")}
    may = {name: {each.rpartition(".")[2] for each in role["includedPermissions"]} for name, role in gcs.items()}
    assert may == {"agent": {"create", "get", "list"}, "delete": {"delete"}}
    may = {name: {each.partition("/blobs/")[2] for each in role["DataActions"]} for name, role in azure.items()}
    assert may == {"agent": {"read", "add/action"}, "delete": {"delete"}}


def test_no_lifecycle_rule_expires_wal() -> None:
    for rule in json.loads((EXAMPLES / "s3" / "lifecycle.json").read_text())["Rules"]:
        markers_only = rule.get("Expiration") == {"ExpiredObjectDeleteMarker": True}
        prefix = rule["Filter"]["Prefix"]
        assert (
            "Expiration" not in rule
            or prefix.endswith("/probe/")
            or (markers_only and prefix.endswith(("/tail/", "/life/")))
        )


def test_the_acls_name_the_four_keys_and_write_nothing_else() -> None:
    etcd = (EXAMPLES / "dcs" / "etcd-role.sh").read_text()
    assert re.findall(r"grant-permission walkeeper (.+)", etcd) == [
        "--prefix=true read /service/demo/",
        "readwrite /service/demo/walkeeper",
        "readwrite /service/demo/walkeeper-backup",
        "readwrite /service/demo/walkeeper-proof",
        "readwrite /service/demo/walkeeper-remembered",
    ]
    consul = (EXAMPLES / "dcs" / "consul-policy.hcl").read_text()
    assert re.findall(r'^(\w+) "([^"]+)" \{\n  policy = "(\w+)"', consul, re.MULTILINE) == [
        ("key_prefix", "service/demo/", "read"),
        ("key", "service/demo/walkeeper", "write"),
        ("key", "service/demo/walkeeper-backup", "write"),
        ("key", "service/demo/walkeeper-proof", "write"),
        ("key", "service/demo/walkeeper-remembered", "write"),
    ]


@pytest.mark.postgres
def test_the_role_in_etcd_is_enough_and_writes_nothing_else(machine: Machine) -> None:
    program = etcd_program()
    control = program.with_name("etcdctl") if program is not None else None
    if control is None or not control.exists():
        pytest.skip("no etcdctl beside etcd")
    prepare(machine.server)
    machine.etcd.require_password("root's")
    environment = {
        "PATH": f"{control.parent}:{os.environ['PATH']}",
        "ETCDCTL_ENDPOINTS": machine.etcd.url,
        "WALKEEPER_ETCD_PASSWORD": "secret",
    }
    script = ["sh", EXAMPLES / "dcs" / "etcd-role.sh"]
    machine.host.run(script, env={**environment, "ETCDCTL_USER": "root:root's"})
    machine.patroni["etcd3"] = {"host": machine.etcd.host, "username": "walkeeper", "password": "secret"}
    machine.configure()

    def frontier_passed(end: Lsn) -> bool:
        report = machine.report()
        return bool(report and report["record"] and Lsn.parse(report["record"]["frontier"]) >= end)

    def remembers() -> bool:
        asked = [control, "get", "/service/demo/walkeeper-remembered"]
        said = machine.host.run(asked, env={**environment, "ETCDCTL_USER": "walkeeper:secret"})
        return str(machine.server.system_identifier) in said

    with machine.start():
        wait_until(lambda: (machine.report() or {}).get("record"), "a record", logs=[machine.log])
        end = Segment.parse(machine.server.complete_segments(3)[-1], SIZE).end
        wait_until(lambda: frontier_passed(end), "the frontier", logs=[machine.log])
        wait_until(remembers, "what is remembered beside the record", logs=[machine.log])
    for key in ("leader", "walkeeper2", "config"):
        with pytest.raises(subprocess.CalledProcessError) as refused:
            machine.host.run(
                [control, "put", f"/service/demo/{key}", "x"], env={**environment, "ETCDCTL_USER": "walkeeper:secret"}
            )
        assert "permission denied" in str(refused.value.stderr)


@pytest.mark.parametrize("name", ["dcs/etcd-role.sh", "container/start"])
def test_shell_scripts_are_well_formed(name: str) -> None:
    subprocess.run(["sh", "-n", EXAMPLES / name], check=True, timeout=60)
    assert "\nset -eu\n" in (EXAMPLES / name).read_text()


# ---------------------------------------------------------------------------------------------------------- containers


def test_the_image_copies_what_is_there_and_runs_what_it_installs() -> None:
    text = (EXAMPLES / "container" / "Dockerfile").read_text()
    assert "not built or run" in text
    for line in re.findall(r"^COPY (?:--\S+ )*(.+)$", text, re.MULTILINE):
        *sources, _ = line.split()
        assert all((ROOT / source).exists() for source in sources), line
    assert re.search(r"^FROM \S+:\d+-\w+$", text, re.MULTILINE), "a version that is named"
    assert text.rindex("USER postgres") > text.rindex("RUN "), "it does not run as root"
    start = (EXAMPLES / "container" / "start").read_text()
    assert "exec /opt/walkeeper/bin/patroni /run/walkeeper/patroni.yml" in start
    assert 'sed "s/@NAME@/$(hostname)/g" /etc/walkeeper/patroni.yml' in start


def test_the_compose_file_fits_the_image() -> None:
    compose = yaml.safe_load((EXAMPLES / "container" / "compose.yml").read_text())
    text = (EXAMPLES / "container" / "compose.yml").read_text()
    assert "not run" in text
    patroni = yaml.safe_load((EXAMPLES / "container" / "patroni.yml").read_text())
    assert patroni["etcd3"]["host"].partition(":")[0] in compose["services"]
    nodes = {name: service for name, service in compose["services"].items() if name.startswith("node")}
    assert len(nodes) == 3
    for name, node in nodes.items():
        assert node["hostname"] == name
        assert f"wal:{patroni['walkeeper']['store']['directory']}" in node["volumes"]
        assert all(volume.partition(":")[0] in compose["volumes"] for volume in node["volumes"])
        assert all(port.startswith("127.0.0.1:") for port in node.get("ports", []))
        assert (ROOT / "examples" / "container" / node["build"]["context"] / node["build"]["dockerfile"]).exists()
