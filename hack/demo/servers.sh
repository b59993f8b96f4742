# shellcheck shell=bash disable=SC2154
# The servers: two Postgres, one Redis, and a Kubernetes control plane unless a cluster is given.

# Where they listen, and for whom.
host=127.0.0.1
clients=127.0.0.1/32

# initdb refuses root, and the others need no rights either.
unprivileged=()
if [ "$(id -u)" -eq 0 ]; then unprivileged=(setpriv --reuid nobody --regid nogroup --clear-groups --); fi

start_servers() {
  step "starting servers on free ports, with their data in $folder"
  password=$(random)
  export PGSERVICEFILE=$folder/pg_service.conf
  free_port crm_port
  free_port erp_port
  free_port redis_port
  if [ -n "$given" ]; then use_given_cluster; else start_control_plane; fi
  start_postgres crm "$crm_port" &
  local crm_starts=$!
  start_postgres erp "$erp_port"
  wait "$crm_starts" || fail "initdb has failed; see $folder/crm.initdb.log"
  start_redis
  export KUBECONFIG=$folder/kubeconfig
  answers crm pg_isready -d service=crm
  answers erp pg_isready -d service=erp
  answers redis redis_answers
  if [ -z "$given" ]; then answers kube-apiserver kubectl get --raw /readyz; fi
  psql -qXc 'CREATE DATABASE crm' 'service=crm dbname=postgres'
  psql -qXc 'CREATE DATABASE erp' 'service=erp dbname=postgres'
  note "source        Postgres on port $crm_port, database crm"
  note "destination   Postgres on port $erp_port, database erp"
  note "queue         Redis on port $redis_port"
  note "Kubernetes    $(kubectl config view -o 'jsonpath={.clusters[0].cluster.server}'), namespace $namespace"
}

random() { od -An -N16 -tx1 /dev/urandom | tr -d ' \n'; }

# A folder of its own for a server: own_folder <name>
own_folder() {
  mkdir "$folder/$1"
  if [ "$(id -u)" -eq 0 ]; then chown nobody:nogroup "$folder/$1"; fi
}

# answers <process> <command...>: waits for a server, and says so at once if it has ended.
answers() {
  local process=$1
  shift
  # shellcheck disable=SC2317
  ready() { "$@" || ! lives "$process"; }
  within 60 "an answer of $process (see $folder/$process.log)" ready "$@"
  lives "$process" || fail "$process has ended; see $folder/$process.log"
}

start_postgres() {
  local name=$1 port=$2
  own_folder "$name"
  # tee, because a server's user cannot read our files.
  "${unprivileged[@]}" tee "$folder/$name/password" <<< "$password" > /dev/null
  (cd / && "${unprivileged[@]}" initdb -D "$folder/$name/data" -U postgres -E UTF8 --locale C.UTF-8 \
    -A scram-sha-256 --pwfile "$folder/$name/password" --no-sync) > "$folder/$name.initdb.log" 2>&1
  echo "host all all $clients scram-sha-256" |
    "${unprivileged[@]}" tee -a "$folder/$name/data/pg_hba.conf" > /dev/null
  cat >> "$PGSERVICEFILE" <<END
[$name]
host=$host
port=$port
dbname=$name
user=postgres
password=$password
END
  spawn "$name" "${unprivileged[@]}" postgres -D "$folder/$name/data" -p "$port" \
    -c listen_addresses="$host" -c unix_socket_directories= -c wal_level=logical
}

start_redis() {
  own_folder redis
  # A file, because everyone can see arguments.
  "${unprivileged[@]}" tee "$folder/redis/redis.conf" > /dev/null <<END
bind $host
port $redis_port
dir $folder/redis
requirepass $password
appendonly yes
appendfsync always
no-appendfsync-on-rewrite no
maxmemory-policy noeviction
save ""
END
  spawn redis "${unprivileged[@]}" redis-server "$folder/redis/redis.conf"
}

redis_answers() { REDISCLI_AUTH=$password redis-cli -h "$host" -p "$redis_port" ping | grep PONG; }

start_control_plane() {
  local etcd peers port token
  token=$(random)
  free_port etcd
  free_port peers
  free_port port
  mkdir "$folder/kube"
  openssl genrsa -out "$folder/kube/accounts.key" 2048 2>/dev/null
  certify "$folder/kube/front" DNS:front-proxy
  certify "$folder/kube/records" "DNS:tablemap-records.$namespace.svc"
  echo "$token,admin,admin,system:masters" > "$folder/kube/tokens"
  spawn etcd etcd --data-dir "$folder/etcd" --log-level error \
    --listen-client-urls "http://127.0.0.1:$etcd" --advertise-client-urls "http://127.0.0.1:$etcd" \
    --listen-peer-urls "http://127.0.0.1:$peers" --initial-advertise-peer-urls "http://127.0.0.1:$peers" \
    --initial-cluster "default=http://127.0.0.1:$peers"
  spawn kube-apiserver kube-apiserver --etcd-servers "http://127.0.0.1:$etcd" \
    --bind-address 127.0.0.1 --secure-port "$port" --cert-dir "$folder/kube/certs" \
    --token-auth-file "$folder/kube/tokens" --authorization-mode RBAC \
    --service-cluster-ip-range 10.0.0.0/24 --disable-admission-plugins ServiceAccount \
    --service-account-issuer https://kubernetes.default.svc \
    --service-account-key-file "$folder/kube/accounts.key" \
    --service-account-signing-key-file "$folder/kube/accounts.key" \
    --requestheader-client-ca-file "$folder/kube/front/ca.crt" --requestheader-allowed-names front-proxy \
    --requestheader-username-headers X-Remote-User --requestheader-group-headers X-Remote-Group \
    --requestheader-extra-headers-prefix X-Remote-Extra- \
    --proxy-client-cert-file "$folder/kube/front/tls.crt" --proxy-client-key-file "$folder/kube/front/tls.key"
  cat > "$folder/kubeconfig" <<END
apiVersion: v1
kind: Config
clusters: [{name: demo, cluster: {server: 'https://127.0.0.1:$port', certificate-authority: $folder/kube/certs/apiserver.crt, tls-server-name: kubernetes}}]
users: [{name: demo, user: {token: $token}}]
contexts: [{name: demo, context: {cluster: demo, user: demo, namespace: $namespace}}]
current-context: demo
END
}

# certify <folder> <name>: a certificate for this name, as DNS:… or IP:…, of an authority of its own.
certify() {
  mkdir "$1"
  openssl req -x509 -newkey rsa:2048 -nodes -days 30 -subj "/CN=demo" -keyout "$1/ca.key" -out "$1/ca.crt" 2>/dev/null
  openssl req -newkey rsa:2048 -nodes -subj "/CN=${2#*:}" -keyout "$1/tls.key" -out "$1/tls.csr" 2>/dev/null
  openssl x509 -req -in "$1/tls.csr" -CA "$1/ca.crt" -CAkey "$1/ca.key" -CAcreateserial -days 30 \
    -extfile <(printf 'subjectAltName=%s' "$2") -out "$1/tls.crt" 2>/dev/null
}

# A copy of the given configuration: what the demo leaves running stays in this cluster, whatever becomes of the original.
use_given_cluster() {
  kubectl config view --raw --minify --flatten > "$folder/kubeconfig" || fail "KUBECONFIG=$KUBECONFIG cannot be read"
  kubectl --kubeconfig "$folder/kubeconfig" config set-context --current --namespace "$namespace" > /dev/null
  if kubectl get namespace "$namespace" > /dev/null 2>&1; then
    fail "the namespace $namespace exists already: another demo may be using it. Else: kubectl delete namespace $namespace"
  fi
}

start_operator() {
  step "starting the operator, with the worker as a task of it"
  run kubectl apply --server-side -f crds
  run kubectl create namespace "$namespace"
  echo "namespace made" >> "$state"
  kubectl wait --for=condition=Established --timeout=60s crd/tablemaps.tablemap.dev crd/connections.tablemap.dev > /dev/null
  local records=()
  if has_records; then
    free_port records_port
    records=(--records-api-address "127.0.0.1:$records_port" --records-api-certificates "$folder/kube/records")
  fi
  # Counters every second, so that a person can watch them.
  spawn operator "$tablemap" operator --namespace "$namespace" --default-queue queue --counters-seconds 1 "${records[@]}"
  note "its log is $folder/operator.log"
  if has_records; then register_records; fi
}

# A cluster of somebody else does not reach this machine.
has_records() { [ -z "$given" ]; }

register_records() {
  local file=$folder/records.yaml
  sed "s/@port@/$records_port/; s/@authority@/$(base64 -w0 "$folder/kube/records/ca.crt" | sed 's/[/&]/\\&/g')/" \
    hack/demo/records.yaml > "$file"
  run kubectl apply -f "$file"
  within 60 "the records API" kubectl get recorderrors
}

# A cluster that goes on without us shall not keep anything of ours. The finalizers need the operator, so it still runs.
leave_cluster() {
  [ -n "$(recorded given)" ] && [ -n "$(recorded namespace)" ] || return 0
  local kubectl=(kubectl --kubeconfig "$folder/kubeconfig")
  step "deleting the namespace $namespace; the custom resource definitions stay"
  for map in $("${kubectl[@]}" get tablemaps -o name); do
    "${kubectl[@]}" patch "$map" --type=merge -p '{"spec":{"deletionPolicy":"Discard"}}' > /dev/null || true
    "${kubectl[@]}" delete "$map" --timeout=20s > /dev/null ||
      "${kubectl[@]}" patch "$map" --type=merge -p '{"metadata":{"finalizers":null}}' > /dev/null || true
  done
  "${kubectl[@]}" delete namespace "$namespace" --timeout=60s > /dev/null ||
    note "it could not be deleted: kubectl delete namespace $namespace"
}
