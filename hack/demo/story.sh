# shellcheck shell=bash disable=SC2154
# The story. Every step has a deadline.

maps=(tm/customers tm/orders tm/order-lines)

tell_story() {
  make_maps
  start_writer
  pause_maps
  work_during_the_pause
  look_at_the_queue
  resume_maps
  show_the_refused_record
  retry_the_refused_record
  discard_a_record
  pause_by_rule
  go_on_after_the_rule
  resume_with_skip
  compare_tables
  check_the_books
  step "done in $SECONDS seconds"
}

make_maps() {
  step "three maps from crm to erp: customers, orders, order-lines"
  psql -qX -v ON_ERROR_STOP=1 -f hack/demo/crm.sql service=crm
  psql -qX -v ON_ERROR_STOP=1 -f hack/demo/erp.sql service=erp
  local file=$folder/connections.yaml
  sed "s/@host@/$host/; s/@password@/$password/; s/@crm_port@/$crm_port/; s/@erp_port@/$erp_port/; s/@redis_port@/$redis_port/" \
    hack/demo/connections.yaml > "$file"
  run kubectl apply -f "$file"
  run kubectl apply -f hack/demo/maps.yaml
  run kubectl wait --for=condition=CaughtUp=True "${maps[@]}" --timeout=60s
}

start_writer() {
  step "changes at the source: every 50 ms an order with its customer and lines, in one transaction"
  psql -qX -v ON_ERROR_STOP=1 -f hack/demo/first.sql service=crm
  touch "$folder/writing"
  spawn writer "$PWD/hack/demo/writer.sh" "$folder/writing"
  headings
  for _ in 1 2 3; do
    sleep 1
    sample
  done
  lives writer || fail "the writer has ended; see $folder/writer.log"
}

stop_writer() {
  rm -f "${folder:-}/writing"
  for _ in {1..100}; do
    lives writer || return 0
    sleep 0.1
  done
}

pause_maps() {
  step "pausing all three, for maintenance at the destination"
  run kubectl patch "${maps[@]}" --type=merge -p '{"spec":{"state":"Paused"}}'
  run kubectl wait --for=condition=Paused=True "${maps[@]}" --timeout=60s
  wal_at_pause=$(query crm 'SELECT pg_current_wal_lsn()')
  before=$(content erp)
}

work_during_the_pause() {
  step "the source goes on, the destination stands still, the queue grows"
  headings
  for _ in 1 2; do
    sample
    sleep 1
  done
  note "an import of 10,000 orders with 30,000 lines at the source:"
  psql -qX -v ON_ERROR_STOP=1 -f hack/demo/import.sql service=crm
  sample
  note "the maintenance: a new rule at the destination"
  run psql -qXc 'ALTER TABLE sales.customer ADD CONSTRAINT modest_credit CHECK (credit_limit <= 100000)' service=erp
  note "one change at the source that breaks it"
  run psql -qXc "UPDATE customers SET credit_limit = 250000 WHERE cust_no = 'C-1007'" service=crm

  step "the source need not keep its log for the pause: the slot moves on, some ten seconds behind what is queued"
  headings
  local until=$((SECONDS + 40))
  sample
  until [ "$behind" -lt $((written / 4)) ]; do
    [ "$SECONDS" -lt "$until" ] || fail "the slot is still $behind KiB behind, of $written KiB that were written since the pause"
    sleep 3
    sample
  done
  [ "$(content erp)" = "$before" ] || fail "the destination has changed during the pause"
  note "every row at the destination is as it was when Paused became True"
  run kubectl get tm
}

look_at_the_queue() {
  step "what waits can be looked at, and searched by key; 'kubectl tablemap' is our plugin"
  if has_records; then run kubectl get queuedrecords --field-selector tableMap=customers,key=C-1007; fi
  run kubectl tablemap status customers
}

resume_maps() {
  step "resuming: the queue is written in order, while new changes go on arriving"
  run kubectl patch "${maps[@]}" --type=merge -p '{"spec":{"state":"Running"}}'
  local columns=MAP:.metadata.name,PHASE:.status.phase
  columns+=,REPLAYED:.status.catchUp.replayed,REMAINING:.status.catchUp.remaining
  columns+=,A-SECOND:.status.catchUp.recordsPerSecond,END:.status.catchUp.estimatedEndTime
  local until=$((SECONDS + 60))
  run kubectl get tm -o "custom-columns=$columns"
  while kubectl get tm -o 'jsonpath={.items[*].status.conditions[?(@.type=="CaughtUp")].status}' | grep -q False; do
    [ "$SECONDS" -lt "$until" ] || fail "the maps did not catch up in a minute"
    sleep 1
    kubectl get tm -o "custom-columns=$columns" --no-headers
  done
  run kubectl wait --for=condition=CaughtUp=True "${maps[@]}" --timeout=60s
}

show_the_refused_record() {
  step "the refused record is parked, and held nothing up"
  local said='{range .status.errors.recent[*]}{.id}{"\n"}{"  class   "}{.class}{"\n"}{"  code    "}{.code}{"\n"}'
  said+='{"  object  "}{.object}{"\n"}{"  remedy  "}{.remedy}{"\n"}{end}'
  run kubectl get tm
  # The newest errors are told a moment after their count.
  within 30 "the refused record in the status" one_is_told
  run kubectl get tm/customers -o "jsonpath=$said"
  local refused
  refused=$(kubectl get tm -o 'jsonpath={range .items[*]}{.metadata.name}={.status.errors.count}:{.status.errors.recent[*].code} {end}')
  [ "$refused" = "customers=1:23514 order-lines=0: orders=0: " ] || fail "one refused record with code 23514 was expected, not: $refused"
  if has_records; then
    note "with its row, and how the row at the destination differs:"
    run kubectl tablemap show "$(kubectl get tm/customers -o 'jsonpath={.status.errors.recent[0].id}')"
  fi
}

one_is_told() { kubectl get tm/customers -o 'jsonpath={.status.errors.recent[0].code}' | grep -q .; }

retry_the_refused_record() {
  step "the cause is mended, and the record is written again"
  run psql -qXc 'ALTER TABLE sales.customer DROP CONSTRAINT modest_credit, ADD CONSTRAINT credit CHECK (credit_limit <= 500000)' service=erp
  run kubectl apply -f hack/demo/retry.yaml
  run kubectl wait --for=condition=Complete=True tmop/customers-retry --timeout=30s
  local columns=OPERATION:.metadata.name,ACTION:.spec.action,PHASE:.status.phase,SELECTED:.status.counts.selected
  columns+=,COMPLETED:.status.counts.completed,FAILED:.status.counts.failed,SUPERSEDED:.status.counts.superseded
  run kubectl get tmop -o "custom-columns=$columns"
  run psql -qXc "SELECT customer_no, credit_limit FROM sales.customer WHERE customer_no = 'C-1007'" service=erp
  local completed
  completed=$(kubectl get tmop/customers-retry -o 'jsonpath={.status.counts.completed}')
  [ "$completed" = 1 ] || fail "one record was to be written again, not $completed"
  within 30 "no error is left" no_error_is_left
  if has_records; then
    run kubectl get recorderrors --field-selector tableMap=customers,retryStatus=Completed
    [ "$(kubectl get recorderrors -o name -l tablemap.dev/retry-status=Completed | wc -l)" = 1 ] ||
      fail "one record with the retry status Completed was expected"
  fi
}

discard_a_record() {
  step "another refused record is given up, and the row is corrected at the source"
  run psql -qXc "UPDATE customers SET credit_limit = 900000 WHERE cust_no = 'C-1007'" service=crm
  within 30 "a refused record" one_error_is_left
  run kubectl tablemap discard customers --key C-1007 --yes --wait
  run psql -qXc "UPDATE customers SET credit_limit = 400000 WHERE cust_no = 'C-1007'" service=crm
  within 30 "no error is left" no_error_is_left
}

one_error_is_left() { [ "$(kubectl get tm/customers -o 'jsonpath={.status.errors.count}')" = 1 ]; }

pause_by_rule() {
  step "a deployment at the destination refuses every customer: a rule pauses the map by itself"
  local rule='{"name":"refusals","match":{"classes":["Application"]},"threshold":{"count":5},"windowSeconds":60,"action":"Pause"}'
  run kubectl patch tm/customers --type=merge -p "{\"spec\":{\"rules\":[$rule]}}"
  run psql -qXc 'ALTER TABLE sales.customer ADD CONSTRAINT mistake CHECK (name IS NULL) NOT VALID' service=erp
  run kubectl wait --for=condition=Paused=True tm/customers --timeout=60s
  run kubectl get tm/customers -o 'jsonpath={.status.pauses[0].cause} {.status.pauses[0].name}: {.status.pauses[0].message}{"\n"}'
  [ "$(kubectl get tm/customers -o 'jsonpath={.spec.state} {.status.pauses[*].cause}')" = 'Running Rule' ] ||
    fail "the map was to be paused by its rule alone"
}

go_on_after_the_rule() {
  step "the constraint is dropped, and what was queued and refused is written"
  run psql -qXc 'ALTER TABLE sales.customer DROP CONSTRAINT mistake' service=erp
  run kubectl tablemap resume customers --wait
  local map
  for map in "${maps[@]#tm/}"; do run kubectl tablemap retry "$map" --all --wait; done
  within 30 "no error is left of any map" no_error_is_left_anywhere
}

no_error_is_left_anywhere() { [ "$(kubectl get tm -o 'jsonpath={.items[*].status.errors.count}')" = '0 0 0' ]; }

resume_with_skip() {
  step "stopping the writer; a pause whose changes are not worth writing ends with a skip"
  stop_writer
  run kubectl tablemap pause customers --wait
  run psql -qXc "UPDATE customers SET full_name = full_name || ' (a test)'" service=crm
  within 30 "queued records" something_is_queued
  run kubectl tablemap resume customers --skip discard --yes --wait
  note "what came of it: $(kubectl get tm/customers -o 'jsonpath={.status.ledger.discarded}') records of customers were discarded in all"
  run psql -qXc "UPDATE customers SET full_name = replace(full_name, ' (a test)', '')" service=crm
}

something_is_queued() { [ "$(kubectl get tm/customers -o 'jsonpath={.status.queue.records}')" -gt 0 ]; }

no_error_is_left() { [ "$(kubectl get tm/customers -o 'jsonpath={.status.errors.count}')" = 0 ]; }

compare_tables() {
  step "comparing the tables"
  within 30 "equal tables" tables_are_equal
  {
    echo "map|rows at crm|rows at erp|hash at crm|hash at erp"
    paste -d '|' <(content crm) <(content erp) | awk -F '|' -v OFS='|' '{ print $1, $2, $5, $3, $6 }'
  } | awk -F '|' '{ printf "    %-12s %11s %12s  %-32s  %-32s\n", $1, $2, $3, $4, $5 }'
  note "equal"
}

tables_are_equal() { [ "$(content crm)" = "$(content erp)" ]; }

# Postgres at the source counts the changes of each table too, so the left side is checked as well.
check_the_books() {
  step "the books: received = written + inFlight + queued + errored + superseded + discarded + purged + filtered"
  within 30 "a balanced ledger of every map" books_balance
  local map
  for map in "${maps[@]}"; do
    read_ledger "$map"
    note "$(printf '%-12s' "${map#tm/}")$received = ${parts[*]/%/ +}" | sed 's/ +$//'
  done
  note "they balance, and Postgres has counted the same number of changes at the source"
}

books_balance() {
  local map part sum
  for map in "${maps[@]}"; do
    read_ledger "$map"
    sum=0
    for part in "${parts[@]}"; do sum=$((sum + part)); done
    [ "$received" -eq "$sum" ] && [ "$received" -eq "$(changes "$map")" ] || return
  done
}

# Sets `received`, and `parts` to the other terms.
read_ledger() {
  local terms='{.received} {.written} {.inFlight} {.queued} {.errored} {.superseded} {.discarded} {.purged} {.filtered}'
  local read
  read=$(kubectl get "$1" -o "jsonpath=${terms//\{/\{.status.ledger}")
  read -r received parts <<< "$read"
  read -ra parts <<< "$parts"
}

# What Postgres has counted at the source.
changes() {
  local table=${1#tm/}
  query crm "SELECT n_tup_ins + n_tup_upd + n_tup_del FROM pg_stat_user_tables WHERE relname = '${table//-/_}'"
}

query() { psql -qXAt -v ON_ERROR_STOP=1 -c "$2" "service=$1"; }

content() { PGTZ=UTC psql -qXAt -v ON_ERROR_STOP=1 -f "hack/demo/content-$1.sql" "service=$1"; }

headings() {
  printf '    %-10s %14s %15s %8s %18s %18s\n' time 'rows at source' 'at destination' queued 'WAL since pause' 'slot is behind'
}

# One line of figures. Sets `written` and `behind`, in KiB.
sample() {
  local source destination queued count
  source=$(query crm 'SELECT (SELECT count(*) FROM customers) + (SELECT count(*) FROM orders) + (SELECT count(*) FROM order_lines)')
  destination=$(query erp 'SELECT (SELECT count(*) FROM sales.customer) + (SELECT count(*) FROM sales.sales_order) + (SELECT count(*) FROM sales.order_line)')
  queued=0
  for count in $(kubectl get tm -o 'jsonpath={.items[*].status.queue.records}'); do queued=$((queued + count)); done
  read -r written behind <<< "$(query crm "SELECT (pg_current_wal_lsn() - coalesce(nullif('${wal_at_pause:-}', '')::pg_lsn, pg_current_wal_lsn()))::bigint / 1024
    || ' ' || (pg_current_wal_lsn() - confirmed_flush_lsn)::bigint / 1024 FROM pg_replication_slots")"
  printf '    %-10s %14s %15s %8s %14s KiB %14s KiB\n' "$(date +%T)" "$source" "$destination" "$queued" "$written" "$behind"
}

say_environment() {
  echo "    export KUBECONFIG=$folder/kubeconfig PGSERVICEFILE=$folder/pg_service.conf"
  echo "    export PATH=$programs:$(dirname "$tablemap"):\$PATH"
}

say_how_to_go_on() {
  step "servers and operator are left running. To go on:"
  say_environment
  cat <<'END'
    kubectl get tm -o wide
    kubectl tablemap status --watch
    kubectl get recorderrors -o wide
    kubectl patch tm/orders --type=merge -p '{"spec":{"state":"Paused"}}'
    kubectl wait --for=condition=Paused=True tm/orders
    psql service=crm -c 'CALL change_set()'
    psql service=erp -c 'SELECT * FROM sales.sales_order ORDER BY order_no DESC LIMIT 5'
    kubectl patch tm/orders --type=merge -p '{"spec":{"state":"Running"}}'

==> to end it all:
    make demo-down
END
}
