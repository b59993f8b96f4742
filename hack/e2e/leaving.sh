# shellcheck shell=bash disable=SC2154
# What the accounts may and what they did; and how all of it goes.

# Each right was used, and nothing was refused.
compare_rights() {
  step "the rights of $*: what was granted and what was used"
  # An event is patched if it is told again within minutes.
  RARE="patch events.events.k8s.io" "$rights" "$cluster/log/audit.log" "$@" || fail "rights are not what is used"
}

worker_account() {
  echo "$namespace/$(kubectl get serviceaccounts --namespace "$namespace" -l app.kubernetes.io/component=worker -o 'jsonpath={.items[0].metadata.name}')"
}

leave() {
  step "maps are deleted, then Connections, then the release; the definitions stay"
  run kubectl delete "${maps[@]}" --timeout=60s
  no_worker() { [ -z "$(kubectl get deployments,serviceaccounts,roles,rolebindings,leases --namespace "$namespace" -l app.kubernetes.io/component=worker -o name)" ]; }
  within 60 "the end of the worker" no_worker
  local left
  left=$(query crm "SELECT (SELECT count(*) FROM pg_replication_slots) + (SELECT count(*) FROM pg_publication)")
  [ "$left" = 0 ] || fail "$left slots and publications are left at the source"
  [ "$(query erp 'SELECT count(*) FROM tablemap.progress')" = 0 ] || fail "the destination still has progress rows"
  [ "$(REDISCLI_AUTH=$password redis-cli -h "$host" -p "$redis_port" dbsize)" = 0 ] || fail "Redis still has keys"
  note "neither slot nor publication, progress row nor key is left"
  compare_rights "$system/tablemap-operator"
  run kubectl delete connections --all --namespace "$namespace" --timeout=30s
  run "$helm" uninstall tablemap --namespace "$system" --wait
  run kubectl get crd -o name
  [ "$(kubectl get crd -o name | grep -c 'tablemap\.dev')" = 3 ] || fail "the definitions should have stayed"
  run kubectl delete namespace "$system" "$namespace" --timeout=60s
}
