# shellcheck shell=bash disable=SC2154
# What a cluster does to pods, under load: nothing is lost, and the books balance.

# write_on: changes at the source again, as in the demo.
write_on() {
  touch "$folder/writing"
  spawn writer "$PWD/hack/demo/writer.sh" "$folder/writing"
}

end_writer() {
  rm -f "$folder/writing"
  within 30 "the writer's end" ended writer
}

# All that was written has arrived.
write_no_more() {
  end_writer
  within 60 "maps that are caught up" caught_up
  within 60 "equal tables" tables_are_equal
  within 60 "a balanced ledger of every map" books_balance
  note "the tables are equal, and the books balance"
}

ended() { ! lives "$1"; }
caught_up() { kubectl wait --for=condition=CaughtUp=True "${maps[@]}" --timeout=1s; }

holder() { kubectl get lease "$1" --namespace "$2" -o 'jsonpath={.spec.holderIdentity}'; }
worker_lease() { kubectl get leases --namespace "$namespace" -o 'jsonpath={.items[0].metadata.name}'; }
worker_pod() { holder "$(worker_lease)" "$namespace" | pod_of; }
# A holder is named after its pod, its process and a number.
pod_of() { sed -E 's/-[0-9]+-[0-9a-f]{32}$//'; }

kill_the_leader() {
  step "the operator that leads is killed: the other one leads within 15 seconds"
  local before pod since=$SECONDS
  before=$(holder tablemap-operator "$system")
  pod=$(pod_of <<< "$before")
  run kubectl delete pod "$pod" --namespace "$system" --force --grace-period=0
  another_leads() { local now; now=$(holder tablemap-operator "$system"); [ -n "$now" ] && [ "$now" != "$before" ]; }
  within 15 "another operator that leads" another_leads
  note "after $((SECONDS - since)) seconds $(holder tablemap-operator "$system") leads"
  run kubectl rollout status deployment/tablemap-operator --namespace "$system" --timeout=60s
}

# replace_worker WHEN: its pod is deleted; how long its maps are without a worker is measured.
replace_worker() {
  local lease before pod since
  lease=$(worker_lease) pod=$(worker_pod) since=$(now)
  before=$(holder "$lease" "$namespace")
  run kubectl delete pod "$pod" --namespace "$namespace" "${@:2}"
  another_works() { local now; now=$(holder "$lease" "$namespace"); [ -n "$now" ] && [ "$now" != "$before" ]; }
  within 30 "another worker" another_works
  note "$1: another worker after $(($(now) - since)) ms"
}

now() { date +%s%3N; }

# watch_stalls FILE: while it is there, how long nothing has arrived at the destination, at most; in ms.
watch_stalls() {
  local count last='' since worst=0
  since=$(now)
  while [ -e "$1" ]; do
    count=$(query erp 'SELECT max(order_no) FROM sales.sales_order')
    if [ "$count" != "$last" ]; then last=$count since=$(now); fi
    if [ $(($(now) - since)) -gt "$worst" ]; then worst=$(($(now) - since)); fi
    echo "$worst" > "$1.worst"
    sleep 0.05
  done
}

replace_workers() {
  step "the worker's pod is deleted in each phase, under load"
  write_on
  sleep 1
  touch "$folder/watching"
  watch_stalls "$folder/watching" &
  replace_worker Running --wait=false
  run kubectl wait --for=condition=CaughtUp=True "${maps[@]}" --timeout=60s
  rm "$folder/watching"
  wait $!
  note "while it was replaced nothing arrived for $(cat "$folder/watching.worst") ms at most"
  [ "$(cat "$folder/watching.worst")" -lt 5000 ] || fail "a worker's restart took more than 5 seconds"
  destination_away
  replace_worker Buffering --wait=false
  within 30 "maps that are Buffering again" all_are Buffering
  destination_back
  run kubectl wait --for=condition=CaughtUp=True "${maps[@]}" --timeout=60s
  run kubectl patch "${maps[@]}" --type=merge -p '{"spec":{"state":"Paused"}}'
  replace_worker Pausing --force --grace-period=0
  run kubectl wait --for=condition=Paused=True "${maps[@]}" --timeout=60s
  replace_worker Paused --wait=false
  before=$(content erp)
  psql -qX -v ON_ERROR_STOP=1 -f hack/demo/import.sql service=crm
  run kubectl wait --for=condition=Paused=True "${maps[@]}" --timeout=60s
  [ "$(content erp)" = "$before" ] || fail "the destination has changed during the pause"
  # Slowly, so that it lasts until the limit is taken away.
  run kubectl patch "${maps[@]}" --type=merge -p '{"spec":{"state":"Running","catchUp":{"maxRecordsPerSecond":50}}}'
  within 30 "maps that catch up" all_are CatchingUp
  replace_worker CatchingUp --force --grace-period=0
  within 30 "maps that catch up again" all_are CatchingUp
  run kubectl patch "${maps[@]}" --type=merge -p '{"spec":{"catchUp":{"maxRecordsPerSecond":null}}}'
  write_no_more
}

destination_away() {
  psql -qXc 'ALTER DATABASE erp ALLOW_CONNECTIONS false' 'service=erp dbname=postgres'
  psql -qXAtc "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'erp'" 'service=erp dbname=postgres' > /dev/null
  within 30 "maps that are Buffering" all_are Buffering
  note "the destination takes no connections"
}
destination_back() {
  psql -qXc 'ALTER DATABASE erp ALLOW_CONNECTIONS true' 'service=erp dbname=postgres'
  note "it does again"
}

restart_the_node() {
  step "kubelet and containerd are killed and started again, under load"
  write_on
  local part pods
  pods=$(kubectl get pods -A -o 'jsonpath={range .items[*]}{.metadata.uid} {.status.containerStatuses[0].restartCount}{"\n"}{end}' | sort)
  for part in kubelet containerd; do kill -KILL "$(cat "$cluster/pid/$part")"; done
  # It is Ready for a while yet, as far as anybody knows.
  renewed=$(node_lease)
  hack/cluster/start-node.sh "$cluster"
  within 60 "a node that is ready" node_is_back
  same_pods() {
    [ "$(kubectl get pods -A -o 'jsonpath={range .items[*]}{.metadata.uid} {.status.containerStatuses[0].restartCount}{"\n"}{end}' | sort)" = "$pods" ]
  }
  within 30 "the same pods, none of them restarted" same_pods
  write_no_more
}

# Since `renewed` was noted.
node_is_back() { [ "$(node_lease)" != "$renewed" ] && kubectl wait --for=condition=Ready node --all --timeout=1s; }
node_lease() { kubectl get leases --namespace kube-node-lease -o 'jsonpath={.items[0].spec.renewTime}'; }

apiserver_away() {
  step "the API server is away for a minute, under load: changes go on, and the status catches up"
  write_on
  local before after
  renewed=$(node_lease)
  end_process apiserver
  before=$(query erp 'SELECT max(order_no) FROM sales.sales_order')
  sleep 60
  after=$(query erp 'SELECT max(order_no) FROM sales.sales_order')
  [ "$after" -gt "$before" ] || fail "nothing was written while the API server was away"
  note "$((after - before)) orders further meanwhile"
  (cd "$cluster" && exec setsid bash start-apiserver) >> "$cluster/log/apiserver.log" 2>&1 < /dev/null &
  echo $! > "$cluster/pid/apiserver"
  within 60 "an answer of the API server" kubectl get --raw /readyz
  # Nothing is scheduled until kubelet has said that it lives: it tries again ever more slowly.
  within 120 "a node that is ready" node_is_back
  write_no_more
}

# end_process NAME: a process of the cluster's host.
end_process() {
  local pid
  pid=$(cat "$cluster/pid/$1")
  kill -KILL "$pid"
  within 10 "the end of $1" not_there "$pid"
}
not_there() { [ ! -e "/proc/$1" ] || grep -q '^State:.Z' "/proc/$1/status"; }
