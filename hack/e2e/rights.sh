# shellcheck shell=bash disable=SC2154
# What the accounts may and what they did: both must be the same.

# Of the operator: it may give a worker only what it has itself, events too; and a Role of Kubernetes allows `get` with the `list`
# and `watch` that are used.
rare=("create events.events.k8s.io" "patch events.events.k8s.io" "get configmaps extension-apiserver-authentication")

# compare_rights ACCOUNT [RARE...]: each right was used but for the rare ones, and nothing was refused.
compare_rights() {
  step "the rights of $1: what was granted and what was used"
  local account=$1 IFS=,
  shift
  RARE="$*" "$rights" "$cluster/log/audit.log" "$account" || fail "rights are not what is used"
}

compare_operator() { compare_rights "$system/tablemap-operator" "${rare[@]}"; }
# An event that comes again within minutes is counted.
compare_worker() { compare_rights "$(worker_account)" "patch events.events.k8s.io"; }

worker_account() {
  echo "$namespace/$(kubectl get serviceaccounts --namespace "$namespace" -l app.kubernetes.io/component=worker -o 'jsonpath={.items[0].metadata.name}')"
}

compare_teams() {
  local team
  for team in "${teams[@]}"; do
    be "$team"
    step "$team pauses, resumes and retries"
    for _ in 1 2; do
      run kubectl tablemap pause customers --wait
      run kubectl tablemap resume customers --wait
    done
    run kubectl tablemap retry customers --all --wait
    compare_worker
  done
}

# An authority that stands in a ConfigMap.
secure_the_destination() {
  step "the destination gets a certificate, whose authority is in a ConfigMap"
  local files=$folder/erp/tls
  certify "$folder/authority" "IP:$host"
  mkdir "$files"
  cp "$folder"/authority/tls.{crt,key} "$files"
  chown -R nobody:nogroup "$files"
  chmod 600 "$files/tls.key"
  run psql -qX service=erp -c "ALTER SYSTEM SET ssl_cert_file = '$files/tls.crt'" -c "ALTER SYSTEM SET ssl_key_file = '$files/tls.key'" \
    -c 'ALTER SYSTEM SET ssl = on' -c 'SELECT pg_reload_conf()'
  run kubectl create configmap erp-authority --from-file="$folder/authority/ca.crt"
  run kubectl patch connection/erp --type=merge \
    -p '{"spec":{"postgres":{"tls":{"mode":"VerifyFull","ca":{"configMapKeyRef":{"name":"erp-authority","key":"ca.crt"}}}}}}'
  within 60 "a worker whose sessions at the destination are all encrypted" all_is_encrypted
  run kubectl wait --for=condition=CaughtUp=True "${maps[@]}" --timeout=60s
}

# Open sessions go on as they are.
all_is_encrypted() {
  query erp "SELECT pg_terminate_backend(pid) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE application_name = 'tablemap' AND NOT ssl" > /dev/null
  [ "$(query erp "SELECT bool_and(ssl) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE application_name = 'tablemap'")" = t ]
}

# What only the operator says of operations.
end_operations() {
  step "an operation of a map that is not there, and one whose time is over"
  operation of-no-map nobody 1000 | run kubectl apply -f -
  run kubectl wait --for=condition=Failed=True tmop/of-no-map --timeout=30s
  operation short-lived customers 1 | run kubectl apply -f -
  run kubectl wait --for=delete tmop/short-lived --timeout=30s
  run kubectl delete tmop/of-no-map
}

# operation NAME MAP SECONDS
operation() {
  echo '{"apiVersion":"tablemap.dev/v1alpha1","kind":"TableMapOperation","metadata":{"name":"'"$1"'"},"spec":{"tableMapRef":{"name":"'"$2"'"},
    "action":"Retry","from":"Errors","selection":{"type":"All"},"ttlSecondsAfterFinished":'"$3"'}}'
}
