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

# replace_worker_in PHASE [HOW...]: its maps are in this phase before and after it.
replace_worker_in() {
  within 30 "maps that are $1" all_are "$1"
  replace_worker "$@"
  within 30 "maps that are $1 again" all_are "$1"
}

now() { date +%s%3N; }

# watch_stalls: until no_stall, how long nothing has arrived at the destination, at most; in ms.
watch_stalls() {
  touch "$folder/watching"
  measure_stalls "$folder/watching" &
  watcher=$!
}

measure_stalls() {
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

# no_stall WHEN: it was under 5 seconds.
no_stall() {
  rm "$folder/watching"
  wait "$watcher"
  note "$1 nothing arrived for $(cat "$folder/watching.worst") ms at most"
  [ "$(cat "$folder/watching.worst")" -lt 5000 ] || fail "$1 nothing arrived for more than 5 seconds"
}

replace_workers() {
  step "the worker's pod is deleted in each phase, under load"
  write_on
  sleep 1
  replaced_while_running
  replaced_while_starting
  replaced_while_buffering
  replaced_while_pausing
  replaced_while_paused
  replaced_while_blocked
  replaced_while_catching_up
  write_no_more
}

replaced_while_running() {
  watch_stalls
  replace_worker Running --wait=false
  run kubectl wait --for=condition=CaughtUp=True "${maps[@]}" --timeout=60s
  no_stall "while the worker was replaced"
}

# Without an answer of Redis a worker cannot take a map over.
replaced_while_starting() {
  signal_redis STOP
  replace_worker "Running, without Redis" --wait=false
  replace_worker_in Starting --wait=false
  signal_redis CONT
  run kubectl wait --for=condition=CaughtUp=True "${maps[@]}" --timeout=60s
}

signal_redis() {
  local name pid born
  while read -r name pid born; do
    if [ "$name" = redis ]; then runs "$pid" "$born" && run kill -s "$1" "$pid"; fi
  done < <(recorded process)
}

replaced_while_buffering() {
  destination_away
  replace_worker_in Buffering --wait=false
  destination_back
  run kubectl wait --for=condition=CaughtUp=True "${maps[@]}" --timeout=60s
}

# Before the destination has said that nothing of them is under way there, they are not paused.
replaced_while_pausing() {
  destination_away
  run kubectl patch "${maps[@]}" --type=merge -p '{"spec":{"state":"Paused"}}'
  replace_worker_in Pausing --force --grace-period=0
  destination_back
  run kubectl wait --for=condition=Paused=True "${maps[@]}" --timeout=60s
  stands_still=$(content erp)
}

replaced_while_paused() {
  replace_worker Paused --wait=false
  psql -qX -v ON_ERROR_STOP=1 -f hack/demo/import.sql service=crm
  run kubectl wait --for=condition=Paused=True "${maps[@]}" --timeout=60s
  [ "$(content erp)" = "$stands_still" ] || fail "the destination has changed during the pause"
}

# Their queues may not have more: the source keeps the rest.
replaced_while_blocked() {
  block_maps
  replace_worker_in Blocked --wait=false
  unblock_maps
}

block_maps() {
  run kubectl patch "${maps[@]}" --type=merge -p '{"spec":{"queue":{"limits":{"hard":{"records":1}}}}}'
}
unblock_maps() {
  run kubectl patch "${maps[@]}" --type=merge -p '{"spec":{"queue":{"limits":null}}}'
  within 30 "maps that are Paused, and not Blocked" all_are Paused
  [ "$(content erp)" = "$stands_still" ] || fail "the destination has changed during the pause"
}

# Slowly, so that it lasts until the limit is taken away.
replaced_while_catching_up() {
  run kubectl patch "${maps[@]}" --type=merge -p '{"spec":{"state":"Running","catchUp":{"maxRecordsPerSecond":50}}}'
  replace_worker_in CatchingUp --force --grace-period=0
  run kubectl patch "${maps[@]}" --type=merge -p '{"spec":{"catchUp":{"maxRecordsPerSecond":null}}}'
}

# Of the databases that are ours, so that a team can do it to its own.
destination_away() {
  local database
  database=$(query erp 'SELECT current_database()')
  psql -qXc "ALTER DATABASE \"$database\" ALLOW_CONNECTIONS false" 'service=erp dbname=postgres'
  psql -qXAtc "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '$database' AND usename = current_user" 'service=erp dbname=postgres' > /dev/null
  away=$database
  note "the destination takes no connections"
}
destination_back() {
  psql -qXc "ALTER DATABASE \"$away\" ALLOW_CONNECTIONS true" 'service=erp dbname=postgres'
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
  watch_stalls
  end_process apiserver
  before=$(query erp 'SELECT max(order_no) FROM sales.sales_order')
  sleep 60
  after=$(query erp 'SELECT max(order_no) FROM sales.sales_order')
  no_stall "without the API server"
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
