# shellcheck shell=bash disable=SC2154
# What the accounts may and what they did; and how all of it goes.

# Rights that need not have been used here, each for a reason:
rare=(
  # An event is told again within minutes; something is left behind by a deletion.
  "patch events.events.k8s.io" "create events.events.k8s.io"
  # The operator may give a worker only what it has itself.
  "patch tablemapoperations/status.tablemap.dev" "get configmaps"
  # An operation's time is over.
  "delete tablemapoperations.tablemap.dev"
  # To apply what is not there yet needs `create`, and is written down as `patch`.
  "create deployments.apps" "create serviceaccounts" "create roles.rbac.authorization.k8s.io"
  "create rolebindings.rbac.authorization.k8s.io"
)

# Each right was used, and nothing was refused.
compare_rights() {
  step "the rights of $*: what was granted and what was used"
  local IFS=,
  RARE="${rare[*]}" "$rights" "$cluster/log/audit.log" "$@" || fail "rights are not what is used"
}

worker_account() {
  echo "$namespace/$(kubectl get serviceaccounts --namespace "$namespace" -l app.kubernetes.io/component=worker -o 'jsonpath={.items[0].metadata.name}')"
}

leave() {
  step "maps are deleted, then Connections, then the release; the definitions stay"
  delete_maps
  compare_rights "$system/tablemap-operator"
  uninstall
  [ "$(definitions)" = 3 ] || fail "the definitions should have stayed"
  run kubectl delete crd tablemaps.tablemap.dev tablemapoperations.tablemap.dev connections.tablemap.dev --timeout=60s
  run kubectl delete namespace "$system" "$namespace" --timeout=60s
}

leave_nothing() {
  step "the same once more with crds.keep=false: the definitions go with the release"
  delete_maps
  uninstall
  within 30 "the end of the definitions" no_definition
  run kubectl delete namespace "$system" "$namespace" --timeout=60s
}

no_definition() { [ "$(definitions)" = 0 ]; }
definitions() { kubectl get crd -o name | grep -c 'tablemap\.dev' || true; }

# Maps, and what they leave nowhere.
delete_maps() {
  run kubectl delete "${maps[@]}" --timeout=60s
  no_worker() { [ -z "$(kubectl get deployments,serviceaccounts,roles,rolebindings,leases --namespace "$namespace" -l app.kubernetes.io/component=worker -o name)" ]; }
  within 60 "the end of the worker" no_worker
  local left
  left=$(query crm "SELECT (SELECT count(*) FROM pg_replication_slots) + (SELECT count(*) FROM pg_publication)")
  [ "$left" = 0 ] || fail "$left slots and publications are left at the source"
  [ "$(query erp 'SELECT count(*) FROM tablemap.progress')" = 0 ] || fail "the destination still has progress rows"
  [ "$(REDISCLI_AUTH=$password redis-cli -h "$host" -p "$redis_port" dbsize)" = 0 ] || fail "Redis still has keys"
  note "neither slot nor publication, progress row nor key is left"
}

uninstall() {
  run kubectl delete connections --all --namespace "$namespace" --timeout=30s
  run "$helm" uninstall tablemap --namespace "$system" --wait
}
