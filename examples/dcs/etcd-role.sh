#!/bin/sh
# A user of walkeeper's own in etcd v3, for the cluster "demo" in Patroni's namespace "/service": everything of the cluster may be
# read, four keys written: the record, what is remembered beside it, and the jobs (only with backup.schedule, and with
# backup.verify_schedule): that is enough for a takeover, too (tried).
# Needs root's credentials in ETCDCTL_USER, and authentication that is enabled.
# walkeeper takes its DCS credentials from the patroni.yml that it is given: give it one of its own (patroni_config: in walkeeper.yml).
set -eu
etcdctl role add walkeeper
etcdctl role grant-permission walkeeper --prefix=true read /service/demo/
etcdctl role grant-permission walkeeper readwrite /service/demo/walkeeper
etcdctl role grant-permission walkeeper readwrite /service/demo/walkeeper-backup
etcdctl role grant-permission walkeeper readwrite /service/demo/walkeeper-proof
etcdctl role grant-permission walkeeper readwrite /service/demo/walkeeper-remembered
# For a second store called far (docs/stores.md), the same for walkeeper-far, walkeeper-backup-far and walkeeper-remembered-far.
printf "%s\n" "$WALKEEPER_ETCD_PASSWORD" | etcdctl user add walkeeper --interactive=false
etcdctl user grant-role walkeeper walkeeper
