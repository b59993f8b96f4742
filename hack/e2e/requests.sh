# shellcheck shell=bash disable=SC2154
# Real requests of one team's people and programs to the API server, in the own namespace and in the other team's, and a table of
# the answers. Writes are dry runs: they ask for the same rights.

# may WHO VERBS GROUP RESOURCE [NAME]: allowed in its own namespace, refused in the other's. In a name NS stands for the namespace,
# and @word for what is known of the namespace under this word.
may() { compare allowed "$@"; }
# may_not: refused in both.
may_not() { compare 403 "$@"; }

compare() {
  local expected=$1 who=$2 verbs=$3 group=$4 resource=$5 name=${6:-} verb ours='' theirs=''
  for verb in $verbs; do
    ours+=" $(ask "$who" "$verb" "$group" "$own" "$resource" "$name")"
    theirs+=" $(ask "$who" "$verb" "$group" "$other" "$resource" "$name")"
  done
  # One answer for all verbs, if it is the same.
  ours=$(uniq_words "$ours") theirs=$(uniq_words "$theirs")
  row "$who" "$verbs $resource${name:+ $name}" "$ours" "$theirs"
  [ "$ours" = "$expected" ] && [ "$theirs" = 403 ] || wrong=yes
}

# row WHO WHAT OWN OTHER
row() { printf '    %-7s %-81s %-8s %s\n' "$@"; }

uniq_words() { tr ' ' '\n' <<< "${1# }" | sort -u | paste -sd ' '; }

# ask WHO VERB GROUP NAMESPACE RESOURCE NAME: "allowed", or the answer's code.
ask() {
  local who=$1 verb=$2 group=$3 namespace=$4 resource=$5 name=${6//NS/$4} path method=GET query='' body=()
  case $name in @*) name=${known[$namespace ${name#@}]} ;; esac
  path=/apis/$group/namespaces/$namespace/${resource%/*}
  if [ "$group" = v1 ]; then path=/api/v1/namespaces/$namespace/${resource%/*}; fi
  case $verb in
    list) query=fieldSelector=$(selector "$resource") ;;
    watch) query='watch=1&timeoutSeconds=1' ;;
    create) method=POST body=("$(new "$resource")") query=dryRun=All ;;
    deletecollection) method=DELETE query=dryRun=All ;;
    *) path+=/$name ;;
  esac
  case $verb in
    patch) method=PATCH body=("$(change "$resource")") query=dryRun=All ;;
    # What whoever operates a map may change.
    pause) method=PATCH body=('{"spec":{"state":"Paused"}}') query=dryRun=All ;;
    delete) method=DELETE query=dryRun=All ;;
  esac
  case $resource in */*) path+=/${resource#*/} ;; esac
  send "$who" "$method" "$path?$query" "${body[@]}"
}

# send WHO METHOD PATH [BODY]
send() {
  local code kind=application/json
  if [ "$2" = PATCH ]; then kind=application/merge-patch+json; fi
  code=$(curl -sS --path-as-is --max-time 20 --cacert "$cluster/certs/apiserver.crt" -H "@$folder/$own.$1" -H "Content-Type: $kind" \
    -o "$folder/$own.answer" -w '%{http_code}' -X "$2" ${4:+--data "$4"} "https://$host:6443$3")
  case $code in 2*) echo allowed ;; *) echo "$code" ;; esac
}

# The list of what is queued must name a map.
selector() { if [ "$1" = queuedrecords ]; then echo tableMap=customers; fi; }

# What is created.
new() {
  local field='{"destination":"customer_no","source":"cust_no"}'
  case $1 in
    tablemaps) object TableMap '{"source":{"connectionRef":{"name":"crm"},"table":{"name":"customers"}},
      "destination":{"connectionRef":{"name":"erp"},"table":{"name":"c"}},"integrationKey":["customer_no"],"fields":['"$field"']}' ;;
    connections) object Connection '{"redis":{"topology":{"standalone":{"host":"a"}}}}' ;;
    tablemapoperations) object TableMapOperation '{"tableMapRef":{"name":"customers"},"action":"Retry","from":"Errors","selection":{"type":"All"}}' ;;
  esac
}
object() { echo '{"apiVersion":"tablemap.dev/v1alpha1","kind":"'"$1"'","metadata":{"name":"new"},"spec":'"$2"'}'; }

# What is changed: of a map more than its state.
change() {
  case $1 in
    tablemaps) echo '{"spec":{"deletionPolicy":"Discard"}}' ;;
    tablemaps/status) echo '{"status":{"phase":"Running"}}' ;;
    *) echo '{"metadata":{"labels":{"a":"b"}}}' ;;
  esac
}
