# shellcheck shell=bash disable=SC2154
# Two teams in a cluster: each has a namespace, databases with a role of its own, and a user of the chart's small Redis. Names of
# objects, and of maps, are the same in both. The name of one namespace is the beginning of the other's.

teams=(north north-west)

# be TEAM: what follows is in its namespace and its databases, as the administrator.
be() { namespace=$1 KUBECONFIG=$folder/$1.kubeconfig PGSERVICEFILE=$folder/$1.pg_service.conf; }

make_teams() {
  step "two teams, ${teams[*]}: namespaces, databases, and users of the chart's small Redis"
  # Where the rest of the test is.
  whole=("$namespace" "$KUBECONFIG" "$PGSERVICEFILE")
  local team
  for team in "${teams[@]}"; do
    run kubectl create namespace "$team"
    run kubectl label namespace "$team" pod-security.kubernetes.io/enforce=restricted
    make_databases "$team"
    kubectl config view --raw --minify --flatten > "$folder/$team.kubeconfig"
    kubectl --kubeconfig "$folder/$team.kubeconfig" config set-context --current --namespace "$team" > /dev/null
  done
  install_redis
  for team in "${teams[@]}"; do
    be "$team"
    make_team "$team"
  done
  for team in "${teams[@]}"; do
    be "$team"
    run kubectl wait --for=condition=CaughtUp=True "${maps[@]}" --timeout=60s
    psql -qX -v ON_ERROR_STOP=1 -f hack/demo/first.sql service=crm
  done
}

make_databases() {
  local server port secret
  secret=$(random)
  for server in crm erp; do
    port=${server}_port
    psql -qX -v ON_ERROR_STOP=1 "service=$server" <<SQL
CREATE ROLE "$1" LOGIN REPLICATION PASSWORD '$secret';
CREATE DATABASE "$1" OWNER "$1";
REVOKE CONNECT ON DATABASE "$1" FROM PUBLIC;
SQL
    cat >> "$folder/$1.pg_service.conf" <<CONF
[$server]
host=$host
port=${!port}
dbname=$1
user=$1
password=$secret
CONF
  done
  sed "s/@host@/$host/; s/@password@/$secret/; s/@team@/$1/; s/@crm_port@/$crm_port/; s/@erp_port@/$erp_port/" \
    hack/e2e/connections.yaml > "$folder/$1.connections.yaml"
}

make_team() {
  psql -qX -v ON_ERROR_STOP=1 -f hack/demo/crm.sql service=crm
  psql -qX -v ON_ERROR_STOP=1 -f hack/demo/erp.sql service=erp
  run kubectl apply -f "$folder/$1.connections.yaml"
  run kubectl apply -f hack/demo/maps.yaml
}

# Nothing of them is left, so that the chapters after this one find what they know.
end_teams() {
  step "the teams' maps are deleted, then the rest of them, and the small Redis"
  local team server
  while_deleting "${teams[0]}"
  for team in "${teams[@]}"; do
    be "$team"
    run kubectl delete tm,tmop --all --timeout=60s
  done
  no_keys
  no_workers() { [ -z "$(kubectl get deployments -o name)" ]; }
  for team in "${teams[@]}"; do
    be "$team"
    within 60 "the end of the worker" no_workers
    run kubectl delete connections --all --timeout=30s
  done
  namespace=${whole[0]} KUBECONFIG=${whole[1]} PGSERVICEFILE=${whole[2]}
  remove_redis
  run kubectl delete namespace "${teams[@]}" --timeout=60s
  for server in crm erp; do
    for team in "${teams[@]}"; do
      psql -qX -v ON_ERROR_STOP=1 "service=$server" -c "DROP DATABASE \"$team\" WITH (FORCE)" -c "DROP ROLE \"$team\""
    done
  done
}
