# shellcheck shell=bash disable=SC2154
# The chart's small Redis, whose pod is restarted under load in each phase: nothing is lost.

redis=tablemap-redis-0
redis_image=tablemap.local/redis:e2e

install_redis() {
  step "the small Redis of the chart, with its volume in a folder of the node; and Roles in named namespaces only"
  mkdir -m 755 "$cluster/redis"
  sed "s|@folder@|$cluster/redis|; s|@system@|$system|" hack/e2e/volume.yaml > "$folder/volume.yaml"
  run kubectl apply -f "$folder/volume.yaml"
  local values=redis.enabled=true,redis.programs=redis,redis.memory=256Mi
  values+=,redis.image.repository=${redis_image%:*},redis.image.tag=${redis_image##*:},redis.image.pullPolicy=Never
  local IFS=,
  run "$helm" upgrade tablemap charts/tablemap --namespace "$system" --reuse-values --wait --timeout 180s \
    --set "$values" --set "redis.namespaces={${teams[*]}}" --set "watchNamespaces={${whole[0]},${teams[*]}}"
}

# Nobody there may count keys, but a summary says whether there are some.
no_keys() {
  local address password said
  address=$(kubectl get pod "$redis" --namespace "$system" -o 'jsonpath={.status.podIP}')
  password=$(kubectl get secret tablemap-redis -o 'jsonpath={.data.password}' | base64 -d)
  said=$(REDISCLI_AUTH=$password redis-cli -h "$address" --user "$namespace" --no-auth-warning info keyspace)
  [[ $said == *Keyspace* && $said != *keys=* ]] || fail "Redis still has keys: $said"
}

remove_redis() {
  run "$helm" upgrade tablemap charts/tablemap --namespace "$system" --reuse-values --wait --timeout 180s \
    --set redis.enabled=false --set-json 'watchNamespaces=[]'
  run kubectl delete pvc "data-$redis" --namespace "$system" --timeout=60s
  run kubectl delete pv redis --timeout=60s
}

restart_redis() {
  be "${teams[0]}"
  write_on
  sleep 1
  while_running
  while_starting
  while_buffering
  while_pausing
  while_paused
  while_blocked
  while_catching_up
  write_no_more
}

while_running() {
  step "Redis is restarted while maps of $namespace are Running: changes go on to the destination"
  watch_stalls
  replace_redis gracefully
  replace_redis "by force"
  run kubectl wait --for=condition=CaughtUp=True "${maps[@]}" --timeout=60s
  no_stall "without Redis"
}

# Without an answer of Redis a worker cannot take a map over.
while_starting() {
  step "Redis is restarted while the maps are Starting"
  run kill -STOP "$(process_of "$(which_redis | sed 's|.*/||')")"
  replace_worker "Running, without Redis" --wait=false
  within 30 "maps that are Starting" all_are Starting
  replace_redis killed
  run kubectl wait --for=condition=CaughtUp=True "${maps[@]}" --timeout=60s
}

while_buffering() {
  step "Redis is restarted while the maps are Buffering"
  destination_away
  replace_redis_in Buffering gracefully "by force"
  destination_back
  run kubectl wait --for=condition=CaughtUp=True "${maps[@]}" --timeout=60s
}

while_blocked() {
  step "Redis is restarted while the maps are Blocked"
  block_maps
  replace_redis_in Blocked gracefully "by force"
  unblock_maps
}

# The maps of every team are deleted without a destination: their queues are not given up before it is back.
while_deleting() {
  be "$1"
  step "Redis is restarted while the maps of $1 are Deleting"
  destination_away
  run kubectl delete "${maps[@]}" --wait=false
  replace_redis_in Deleting "by force"
  destination_back
  run kubectl wait --for=delete "${maps[@]}" --timeout=60s
}

while_pausing() {
  step "Redis dies, and at once a pause is asked for"
  lose_redis killed
  run kubectl patch "${maps[@]}" --type=merge -p '{"spec":{"state":"Paused"}}'
  note "meanwhile: $(phases)"
  redis_is_back
  run kubectl wait --for=condition=Paused=True "${maps[@]}" --timeout=60s
  stands_still=$(content erp)
}

while_paused() {
  step "Redis is restarted while the maps are Paused: they stay so, and what waits still waits"
  local how count
  for how in gracefully "by force"; do
    within 30 "queued records of every map" all_queue
    count=$queued
    replace_redis "$how"
    run kubectl wait --for=condition=Paused=True "${maps[@]}" --timeout=60s
    within 30 "the same records in each queue" still_waits
    within 30 "further records" more_than "$count"
    note "$count records waited, now $queued; the oldest $(wc -l < "$folder/oldest") are the same"
  done
  [ "$(content erp)" = "$stands_still" ] || fail "the destination has changed during the pause"
  note "every row at the destination is as it was when Paused became True"
}

# Slowly, and more is written meanwhile: it lasts until the limit is taken away.
while_catching_up() {
  step "Redis is restarted while the maps are CatchingUp"
  run kubectl patch "${maps[@]}" --type=merge -p '{"spec":{"state":"Running","catchUp":{"maxRecordsPerSecond":50}}}'
  replace_redis_in CatchingUp gracefully "by force"
  run kubectl patch "${maps[@]}" --type=merge -p '{"spec":{"catchUp":{"maxRecordsPerSecond":null}}}'
  run kubectl wait --for=condition=CaughtUp=True "${maps[@]}" --timeout=120s
}

phases() { kubectl get tm -o 'jsonpath={range .items[*]}{.metadata.name} {.status.phase}, {.status.queue.records} queued; {end}'; }
all_are() { [ "$(kubectl get tm -o 'jsonpath={.items[*].status.phase}' | tr ' ' '\n' | sort -u)" = "$1" ]; }

# page MAP: the oldest that is queued, by the records API: it reads Redis itself.
page() {
  kubectl get --raw "/apis/records.tablemap.dev/v1alpha1/namespaces/$namespace/queuedrecords?limit=100&fieldSelector=tableMap=${1#tm/}"
}
oldest() { local map; for map in "${maps[@]}"; do page "$map" | grep -o '"name":"[^"]*"' || return; done; }
# Sets `queued` to how many there are, of all maps. An operator whose connection to Redis was cut says so once.
count_queued() {
  local map sum=0 page more
  for map in "${maps[@]}"; do
    page=$(page "$map") && grep -q '"name":' <<< "$page" || return
    more=$(grep -o '"remainingItemCount":[0-9]*' <<< "$page" || true)
    sum=$((sum + $(grep -o '"name":' <<< "$page" | wc -l) + ${more#*:} + 0))
  done
  queued=$sum
}
all_queue() { count_queued && oldest > "$folder/oldest"; }
still_waits() { [ -z "$(grep -vxFf <(oldest) "$folder/oldest")" ]; }
more_than() { count_queued && [ "$queued" -gt "$1" ]; }

# lose_redis HOW: notes which one it was, and when.
lose_redis() {
  lost=$(which_redis) lost_since=$(now)
  case $1 in
    gracefully) run kubectl delete pod "$redis" --namespace "$system" --wait=false ;;
    "by force") run kubectl delete pod "$redis" --namespace "$system" --force --grace-period=0 ;;
    killed) run kill -KILL "$(process_of "${lost##*/}")" ;;
  esac
}

process_of() { ctr -a "$cluster/node/run-containerd/containerd.sock" -n k8s.io tasks ls | awk -v id="$1" '$1 == id { print $2 }'; }

redis_is_back() {
  within 60 "another Redis that is ready" another_redis
  note "another Redis is ready after $(($(now) - lost_since)) ms"
}

replace_redis() {
  lose_redis "$1"
  redis_is_back
}

# replace_redis_in PHASE HOW...: the maps are in this phase before and after each time.
replace_redis_in() {
  local how
  for how in "${@:2}"; do
    within 30 "maps that are $1" all_are "$1"
    replace_redis "$how"
    within 30 "maps that are $1 again" all_are "$1"
    note "after it: $(phases)"
  done
}

# Its container: a pod that is deleted comes again under its name.
which_redis() { kubectl get pod "$redis" --namespace "$system" -o 'jsonpath={.status.containerStatuses[0].containerID}'; }
another_redis() {
  local now
  now=$(which_redis)
  [ -n "$now" ] && [ "$now" != "$lost" ] && kubectl wait --for=condition=Ready "pod/$redis" --namespace "$system" --timeout=1s
}
