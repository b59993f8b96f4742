# shellcheck shell=bash disable=SC2154
# Two teams cannot see or touch each other's maps, records, queues or Secrets. What each may in its own namespace is asked in the
# same way, so that a request which could not succeed anywhere proves nothing.

keep_teams_apart() {
  step "each team has a refused record, a queued one, and people with roles of the chart"
  local team
  for team in "${teams[@]}"; do have_records "$team"; done
  for team in "${teams[@]}"; do name_things "$team"; done
  wrong=
  from_here north north-west
  from_here north-west north
  [ -z "$wrong" ] || fail "something is allowed that should not be, or the other way round: see the tables above"
  for team in "${teams[@]}"; do nothing_of_others "$team"; done
  steal north north-west
  for team in "${teams[@]}"; do all_is_well "$team"; done
}

# have_records TEAM
have_records() {
  be "$1"
  psql -qX -v ON_ERROR_STOP=1 service=erp -c 'ALTER TABLE sales.customer ADD CONSTRAINT modest CHECK (credit_limit <= 100000)'
  psql -qX -v ON_ERROR_STOP=1 service=crm -c "INSERT INTO customers VALUES ('refused-$1', 'refused of $1', 900000)"
  within 30 "a refused record" first recorderrors
  kubectl patch tm/customers --type=merge -p '{"spec":{"state":"Paused"}}' > /dev/null
  kubectl wait --for=condition=Paused=True tm/customers --timeout=60s > /dev/null
  psql -qX -v ON_ERROR_STOP=1 service=crm -c "INSERT INTO customers VALUES ('queued-$1', 'queued of $1', 1)"
  within 30 "a queued record" first queuedrecords
  sed "s/@team@/$1/" hack/e2e/people.yaml > "$folder/$1.people.yaml"
  kubectl apply -f "$folder/$1.people.yaml" > /dev/null
}

# The name of the first record of the map customers.
first() {
  local name
  name=$(kubectl get "$1" --field-selector tableMap=customers -o 'jsonpath={.items[0].metadata.name}')
  [ -n "$name" ] && echo "$name"
}

declare -A known

# name_things TEAM: what requests name that is made by a program, and by what token people and the worker show themselves.
name_things() {
  be "$1"
  local account password
  known["$1 queued"]=$(first queuedrecords)
  known["$1 error"]=$(first recorderrors)
  known["$1 pod"]=$(worker_pod)
  known["$1 lease"]=$(worker_lease)
  known["$1 queue"]=$(kubectl get tm/customers -o 'jsonpath={.status.queue.id}')
  password=$(kubectl get secret tablemap-redis -o 'jsonpath={.data.password}')
  known["$1 password"]=$(base64 -d <<< "$password")
  account=$(worker_account)
  account=${account#*/}
  known["$1 account"]=$account
  token lead "$folder/$1.lead"
  token oncall "$folder/$1.oncall"
  token "$account" "$folder/$1.worker"
}

# token ACCOUNT FILE: as a header, in a file because everyone can see arguments.
token() { (umask 077; echo "Authorization: Bearer $(kubectl create token "$1")" > "$2"); }

# from_here TEAM OTHER
from_here() {
  own=$1 other=$2
  be "$own"
  step "what $own asks: in its own namespace, and in $other"
  row who what in-own "in $other"
  people_ask
  worker_asks
  operators_are_asked
  redis_is_asked
}

people_ask() {
  local all='get list watch create patch delete deletecollection' ours=tablemap.dev/v1alpha1
  may lead "$all pause" $ours tablemaps customers
  may lead "$all" $ours connections crm
  may lead 'get list watch create delete deletecollection' $ours tablemapoperations count
  may lead 'get list' records.$ours queuedrecords @queued
  may lead 'get list' records.$ours recorderrors @error
  may lead get records.$ours queuedrecords/payload @queued
  may lead get records.$ours recorderrors/payload @error
  may lead 'get list watch patch delete' v1 secrets postgres-login
  may lead get v1 secrets tablemap-redis
  may lead get v1 pods/log @pod
  may oncall 'get list watch pause' $ours tablemaps customers
  may oncall 'get list' $ours connections crm
  may oncall 'get list create delete' $ours tablemapoperations count
  may oncall 'get list' records.$ours queuedrecords @queued
  may oncall 'get list' records.$ours recorderrors @error
  may_not oncall 'create patch delete' $ours tablemaps customers
  may_not oncall 'create patch delete' $ours connections crm
  may_not oncall get records.$ours queuedrecords/payload @queued
  may_not oncall get records.$ours recorderrors/payload @error
  may_not oncall 'get list' v1 secrets postgres-login
  local path
  for path in /apis/$ours/tablemaps /apis/$ours/connections /apis/$ours/tablemapoperations \
    "/apis/records.$ours/queuedrecords?fieldSelector=tableMap=customers" /apis/records.$ours/recorderrors \
    "/apis/records.$ours/recorderrors?fieldSelector=metadata.namespace=$own" \
    /api/v1/secrets "/api/v1/namespaces/$system/secrets/tablemap-redis-users"; do
    nowhere "$path"
  done
}

# nowhere PATH: what is of the whole cluster or of the release.
nowhere() {
  local answer
  answer=$(send lead GET "$1")
  row lead "$1" - "$answer"
  [ "$answer" = 403 ] || wrong=yes
}

worker_asks() {
  local ours=tablemap.dev/v1alpha1 leases='coordination.k8s.io/v1 leases' right
  may worker 'list watch' $ours tablemaps
  may worker list $ours tablemapoperations
  may worker get $ours connections crm
  may worker patch $ours tablemaps/status customers
  may worker get v1 secrets postgres-login
  may worker get v1 secrets tablemap-redis
  # shellcheck disable=SC2086
  may worker get $leases @lease
  # Not even in its own: it reads just those Secrets that its Connections name, and changes no spec.
  may_not worker get v1 secrets only-NS
  may_not worker 'list watch' v1 secrets
  may_not worker 'create patch pause delete' $ours tablemaps customers
  may_not worker 'get list' records.$ours queuedrecords @queued
  for right in "get secrets/postgres-login" "list tablemaps.tablemap.dev" "patch tablemaps.tablemap.dev/customers --subresource=status" \
    "get leases.coordination.k8s.io/$(worker_lease)"; do
    can_i "$right"
  done
}

# can_i RIGHT: the same by the API server's own answer.
can_i() {
  local words ours theirs account="system:serviceaccount:$own:${known[$own account]}"
  read -ra words <<< "$1"
  ours=$(kubectl auth can-i "${words[@]}" --as "$account" --namespace "$own" || true)
  theirs=$(kubectl auth can-i "${words[@]}" --as "$account" --namespace "$other" || true)
  row worker "kubectl auth can-i $1" "$ours" "$theirs"
  [ "$ours/$theirs" = yes/no ] || wrong=yes
}

# Whoever comes round the API server is not believed.
operators_are_asked() {
  local address answer namespace
  address=$(kubectl get pods --namespace "$system" -l app.kubernetes.io/component=operator -o 'jsonpath={.items[0].status.podIP}')
  for namespace in "$own" "$other"; do
    answer+=" $(curl -sk --max-time 10 -o "$folder/$own.answer" -w '%{http_code}' -H "@$folder/$own.lead" \
      -H 'X-Remote-User: admin' -H 'X-Remote-Group: system:masters' \
      "https://$address:8443/apis/records.tablemap.dev/v1alpha1/namespaces/$namespace/recorderrors")"
  done
  # shellcheck disable=SC2086
  row lead "the records API of an operator's pod, as an administrator" $answer
  [ "$answer" = " 401 401" ] || wrong=yes
}

# With the user that the Secret of the namespace has.
redis_is_asked() {
  redis_address=$(kubectl get pod "$redis" --namespace "$system" -o 'jsonpath={.status.podIP}')
  redis_may "xlen {tm:NS:UID}:stream"
  redis_may "xrange {tm:NS:UID}:stream - + count 1"
  redis_may "type {tm:NS:UID}:errors"
  redis_may "set {tm:NS:new}:key a ex 1"
  redis_may "del {tm:NS:new}:key"
  redis_may "eval return(redis.call('exists','{tm:NS:UID}:stream')) 0"
  local command
  # The name of the other team's user, with the own password.
  command=$(REDISCLI_AUTH=${known[$own password]} redis-cli -h "$redis_address" --user "$other" --no-auth-warning ping 2>&1)
  row redis "the user $other with the password of $own" - "$(grep -o 'WRONGPASS' <<< "$command" || echo "$command")"
  [[ $command == *WRONGPASS* ]] || wrong=yes
  for command in "scan 0" randomkey dbsize "keys *" "client tracking on bcast" "client list" flushall flushdb "acl list" \
    "config set appendonly no" "script flush" "function flush"; do
    redis_may_not "$command"
  done
}

redis_may() {
  local ours theirs
  ours=$(ask_redis "$own" "$1") theirs=$(ask_redis "$other" "$1")
  row redis "$1" "$ours" "$theirs"
  [ "$ours/$theirs" = allowed/NOPERM ] || wrong=yes
}

# What names no key would be of all.
redis_may_not() {
  local answer
  answer=$(ask_redis "$own" "$1")
  row redis "$1" - "$answer"
  [ "$answer" = NOPERM ] || wrong=yes
}

# ask_redis NAMESPACE COMMAND
ask_redis() {
  local command=${2//NS/$1} said words
  command=${command//UID/${known[$1 queue]}}
  set -f
  # shellcheck disable=SC2206
  words=($command)
  set +f
  said=$(REDISCLI_AUTH=${known[$own password]} redis-cli -h "$redis_address" --user "$own" --no-auth-warning "${words[@]}" 2>&1 | tr -d '\0')
  case $said in
    NOPERM* | "ERR The user executing the script can't"*) echo NOPERM ;;
    *ERR* | WRONGPASS* | NOAUTH* | *"not connect"*) echo "$said" ;;
    *) echo allowed ;;
  esac
}

# nothing_of_others TEAM: neither what is shown of its objects, nor what its worker logs and counts, names the other team.
nothing_of_others() {
  be "$1"
  local others='north-west' worker found
  if [ "$1" = north-west ]; then others='north(?!-west)'; fi
  worker=$(kubectl get pod "$(worker_pod)" -o 'jsonpath={.status.podIP}')
  {
    kubectl get tm,connections,tmop,events,recorderrors -o yaml
    kubectl get queuedrecords -o yaml --field-selector tableMap=customers
    kubectl logs -l app.kubernetes.io/component=worker --tail=-1
    curl -sS --max-time 10 "http://$worker:8080/metrics"
  } > "$folder/$1.seen"
  for found in "refused-$1" "queued-$1" "namespace=\"$1\""; do
    grep -q "$found" "$folder/$1.seen" || fail "what $1 is shown has no $found"
  done
  if found=$(grep -nP "$others" "$folder/$1.seen"); then fail "$1 is shown something of the other team: $found"; fi
  note "status, events, records, worker log and metrics of $1 ($(wc -l < "$folder/$1.seen") lines) name nothing of the other team"
}

# steal TEAM OTHER: references lead to the own namespace only.
steal() {
  step "the leader of $1 names what is $2's: a Secret, the path to one, a Connection, a queue"
  be "$1"
  sed "s/token: .*/token: $(sed 's/.* //' "$folder/$1.lead")/" "$KUBECONFIG" > "$folder/$1.lead.kubeconfig"
  leads=(kubectl --kubeconfig "$folder/$1.lead.kubeconfig")
  sed "s/@host@/$host/; s/@erp_port@/$erp_port/; s/@own@/$1/; s/@other@/$2/g" hack/e2e/thief.yaml > "$folder/thief.yaml"
  run "${leads[@]}" apply -f "$folder/thief.yaml"
  run kubectl wait --for=condition=Ready=False connection/by-secret --timeout=30s
  says connection/by-secret Ready "no Secret only-$2 in namespace $1"
  local answer
  answer=$("${leads[@]}" patch connection/by-secret --type=merge \
    -p '{"spec":{"postgres":{"tls":{"ca":{"secretKeyRef":{"name":"../../'"$2"'/secrets/only-'"$2"'","key":"password"}}}}}}' 2>&1) && fail "a path was taken for a name"
  note "$answer"
  [[ $answer == *"should match"* ]] || fail "a path is refused for another reason"
  make_map by-connection "only-$2" '{}'
  run kubectl wait --for=condition=SpecValid=False tm/by-connection --timeout=30s
  says tm/by-connection SpecValid "no Connection only-$2 in namespace $1"
  make_map by-queue erp "{id: ${known[$2 queue]}}"
  run kubectl wait --for=condition=CaughtUp=True tm/by-queue --timeout=60s
  within 10 "an event that tells of no such queue" told QueueNotFound
  note "by-queue: $(kubectl get events --field-selector reason=QueueNotFound -o 'jsonpath={.items[0].message}')"
  # What has the same names in its own namespace is found, and so the map can be cleaned up.
  sed "s/only-$1/only-$2/" "$folder/$1.connections.yaml" > "$folder/own-names.yaml"
  run "${leads[@]}" apply -f "$folder/own-names.yaml"
  run kubectl wait --for=condition=CaughtUp=True tm/by-connection --timeout=60s
  run kubectl delete tm/by-connection tm/by-queue --timeout=60s
  be "$2"
  [ "$(first queuedrecords)" = "${known[$2 queued]}" ] || fail "what $2 has queued is not there any more"
}

# says OBJECT CONDITION WHAT
says() {
  local said
  said=$(kubectl get "$1" -o "jsonpath={.status.conditions[?(@.type=='$2')].message}")
  note "$said"
  [[ $said == *"$3"* ]] || fail "$1 should say: $3"
}

told() { [ -n "$(kubectl get events --field-selector "reason=$1" -o name)" ]; }

# make_map NAME DESTINATION QUEUE
make_map() {
  sed "s/@name@/$1/; s/@destination@/$2/; s/@queue@/$3/" hack/e2e/thief-map.yaml > "$folder/$1.yaml"
  run "${leads[@]}" apply -f "$folder/$1.yaml"
}

# all_is_well TEAM: its rows arrive, and its books balance.
all_is_well() {
  be "$1"
  psql -qX -v ON_ERROR_STOP=1 service=erp -c 'ALTER TABLE sales.customer DROP CONSTRAINT modest'
  psql -qX -v ON_ERROR_STOP=1 service=crm -c "UPDATE customers SET credit_limit = 1 WHERE cust_no = 'refused-$1'"
  run kubectl patch "${maps[@]}" --type=merge -p '{"spec":{"state":"Running"}}'
  write_no_more
}
