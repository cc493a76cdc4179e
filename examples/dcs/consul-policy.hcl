# For the cluster "demo": consul acl policy create -name walkeeper -rules @consul-policy.hcl
# Everything of the cluster may be read, one key written. No session is needed. Not tried against a Consul server with ACLs.
key_prefix "service/demo/" {
  policy = "read"
}
key "service/demo/walkeeper" {
  policy = "write"
}
