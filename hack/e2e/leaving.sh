# shellcheck shell=bash disable=SC2154
# How all of it goes.

leave() {
  step "the worker's pod is deleted while maps are Deleting, since the destination is away"
  destination_away
  run kubectl delete "${maps[@]}" --wait=false
  replace_worker_in Deleting --wait=false
  destination_back
  step "maps are deleted, then Connections, then the release; the definitions stay"
  delete_maps
  compare_operator
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
  run kubectl delete "${maps[@]}" --ignore-not-found --timeout=60s
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
