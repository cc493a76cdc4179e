# For the cluster "demo": consul acl policy create -name walkeeper -rules @consul-policy.hcl
# Everything of the cluster may be read, four keys written: the record, what is remembered beside it, and the jobs (only with
# backup.schedule, and with backup.verify_schedule). No session is needed (tried, with Consul 1.8.7).
key_prefix "service/demo/" {
  policy = "read"
}
key "service/demo/walkeeper" {
  policy = "write"
}
key "service/demo/walkeeper-backup" {
  policy = "write"
}
key "service/demo/walkeeper-proof" {
  policy = "write"
}
key "service/demo/walkeeper-remembered" {
  policy = "write"
}
# For a second store called far (docs/stores.md), the same for walkeeper-far, walkeeper-backup-far and walkeeper-remembered-far.
