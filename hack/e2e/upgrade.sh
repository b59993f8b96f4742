# shellcheck shell=bash disable=SC2154
# An upgrade and the way back, between the charts and programs of two commits: with queues and refused records, under load.

# The version that is upgraded from: the first whose chart runs in this cluster.
older=af6851f
repository=tablemap.local/tablemap

# The older version; and a newer one, whose queue entries have a format and whose maps have a field that this one does not know.
build_versions() {
  local built=${CARGO_TARGET_DIR:-target} source=target/e2e/older chart=target/e2e/newer-chart
  has_older() { git cat-file -e "$older^{commit}" 2> /dev/null; }
  has_older || git fetch --quiet --unshallow || true
  has_older || fail "the commit $older, which the upgrade begins from, is neither in this clone nor where it came from"
  # Files have the time of the commit, so that an unchanged one is not built again.
  rm -rf "$source" "$chart" target/e2e/tablemap-older
  mkdir -p "$source"
  git archive "$older" | tar -x -C "$source"
  # Among the builds of this checkout, to share what both depend on. Moved, since this checkout's program has the same name.
  cargo build --locked --manifest-path "$source/Cargo.toml" --target-dir "$built" --bin tablemap
  mv "$built/debug/tablemap" target/e2e/tablemap-older
  # As `make test` builds it, so that it need not be built twice.
  cargo test --locked --features testing --test real --no-run
  pack target/e2e/tablemap-older older
  IMAGE_ENVIRONMENT=TABLEMAP_BROKEN=newer-entries pack "$built/debug/tablemap-testing" newer
  cp -r charts/tablemap "$chart"
  sed -i '/^              deletionPolicy:$/i\              maintenanceNote:\n                type: string' "$chart/files/crds.yaml"
  [ "$(grep -c maintenanceNote "$chart/files/crds.yaml")" = 1 ] || fail "the newer chart was to have one more field"
}

# pack PROGRAM TAG: an image of a dev build.
pack() {
  local root
  root=$(mktemp -d)
  strip -o "target/e2e/tablemap-$2.stripped" "$1"
  hack/image-root.sh "target/e2e/tablemap-$2.stripped" "$root"
  hack/oci-archive.sh "$root" "$repository:$2" "target/e2e/tablemap-$2.tar" 65532:65532 /usr/bin/tablemap
  rm -rf "$root"
}

upgrade_and_go_back() {
  local since=$SECONDS
  begin_with_the_older
  upgrade_while_paused
  go_back_while_paused
  resume_what_cannot_be_read
  upgrade_again
  roll_under_load
  compare_every_change
  note "the upgrade and the way back took $((SECONDS - since)) seconds"
}

# Each change of a row is noted at both sides from the first one on.
begin_with_the_older() {
  step "an upgrade, from the beginning: $older is installed, and three maps are under load"
  local database
  for database in crm erp; do
    psql -qXc "DROP DATABASE $database WITH (FORCE)" "service=$database dbname=postgres"
    psql -qXc "CREATE DATABASE $database" "service=$database dbname=postgres"
  done
  start_operator target/e2e/older/charts/tablemap "$repository:older"
  make_maps
  for database in crm erp; do psql -qX -v ON_ERROR_STOP=1 -f "hack/e2e/audit-$database.sql" "service=$database"; done
  start_writer
  step "two refused records"
  run psql -qXc 'ALTER TABLE sales.customer ADD CONSTRAINT low_credit CHECK (credit_limit <= 50000)' service=erp
  run psql -qXc "UPDATE customers SET credit_limit = 60000 WHERE cust_no IN ('C-1008', 'C-1009')" service=crm
  within 30 "two refused records" errors_are 2 0 0
  refused=$(errors)
  pause_maps
  spawn pauses kubectl get tm --watch -o 'jsonpath={.metadata.name} {.status.conditions[?(@.type=="Paused")].status}{"\n"}'
}

upgrade_while_paused() {
  step "upgrade while all three are paused, and changes go on"
  change_much
  within 30 "queues with entries of format 2" formats_are 2
  write_on
  release target/e2e/newer-chart "$repository:newer"
  workers_are "$repository:newer"
  run kubectl patch tm/customers --type=merge -p '{"spec":{"maintenanceNote":"a field of the newer version"}}'
  [ -n "$(maintenance_note)" ] || fail "the new field was not kept"
  change_much
  within 30 "entries of format 3 behind those of format 2" formats_are 2 3
  nothing_has_moved
}

go_back_while_paused() {
  step "back to $older while all three are paused: it queues behind what it cannot read"
  write_on
  run "$helm" rollback tablemap --namespace "$system" --wait --timeout 300s
  workers_are "$repository:older"
  change_much
  within 30 "entries of format 2 behind those of format 3" formats_are 2 3 2
  nothing_has_moved
  [ -z "$(maintenance_note)" ] || fail "the older definition knows the new field"
}

# A map whose rows refer to rows of one that stopped may come to wait for it, before it meets such an entry itself.
resume_what_cannot_be_read() {
  step "resuming with $older: it stops at what it cannot read"
  write_on
  end_process_named pauses
  run kubectl patch "${maps[@]}" --type=merge -p '{"spec":{"state":"Running"}}'
  within 60 "maps that are Blocked with EntryUnreadable, or wait for one that is" all_have_stopped
  run kubectl get tm -o wide
  local map
  for map in "${maps[@]}"; do
    case $(formats "$map") in "2 3 2" | "3 2") ;; *) fail "the queue of $map has not all that it had" ;; esac
  done
  [ "$(errors)" = "$refused" ] || fail "the refused records are not what they were"
  note "the source keeps $(query crm 'SELECT pg_size_pretty(max(pg_current_wal_lsn() - confirmed_flush_lsn)) FROM pg_replication_slots') of its log"
}

all_have_stopped() {
  local map why
  for map in "${maps[@]}"; do
    why=$(kubectl get "$map" -o 'jsonpath={.status.blocked.reason} {.status.conditions[?(@.type=="DestinationConnected")].reason}')
    case "$map $why" in *" EntryUnreadable "* | tm/order*" WaitsForParent") ;; *) return 1 ;; esac
  done
}

upgrade_again() {
  step "the newer version again, under load: it reads all"
  release target/e2e/newer-chart "$repository:newer"
  workers_are "$repository:newer"
  run kubectl wait --for=condition=CaughtUp=True "${maps[@]}" --timeout=60s
  [ "$(errors)" = "$refused" ] || fail "the refused records are not what they were"
  run psql -qXc 'ALTER TABLE sales.customer DROP CONSTRAINT low_credit' service=erp
  run kubectl tablemap retry customers --all --wait
  within 30 "no error is left" errors_are 0 0 0
}

roll_under_load() {
  step "to the version of this checkout and back, while all three are Running under load"
  release charts/tablemap "$image" --set crds.keep=false
  workers_are "$image"
  run kubectl wait --for=condition=CaughtUp=True "${maps[@]}" --timeout=60s
  run "$helm" rollback tablemap --namespace "$system" --wait --timeout 300s
  workers_are "$repository:newer"
  run kubectl wait --for=condition=CaughtUp=True "${maps[@]}" --timeout=60s
  release charts/tablemap "$image" --set crds.keep=false
  workers_are "$image"
  write_no_more
}

compare_every_change() {
  step "every change: what was written, against what was changed at the source"
  query erp 'COPY audit.change TO STDOUT' | query crm 'COPY audit.written FROM STDIN'
  local findings
  findings=$(psql -qXAt -v ON_ERROR_STOP=1 -f hack/e2e/audit-findings.sql service=crm)
  [ -z "$findings" ] || fail "changes were lost, repeated or reordered:"$'\n'"$findings"
  note "$(query crm "SELECT format('%s changes of %s rows: %s were written, in order, none of them twice; in place of the other %s a later one of the same row was',
    count(*), count(DISTINCT (map, key)), (SELECT count(*) FROM audit.written), count(*) - (SELECT count(*) FROM audit.written)) FROM audit.change")"
}

# workers_are IMAGE: workers are rolled after the operators, one of which must lead again first.
workers_are() {
  is_wanted() { [ "$(kubectl get deployments --namespace "$namespace" -o 'jsonpath={.items[*].spec.template.spec.containers[0].image}')" = "$1" ]; }
  within 60 "a worker with the image $1" is_wanted "$1"
  run kubectl rollout status deployment --namespace "$namespace" -l app.kubernetes.io/component=worker --timeout=60s
  run kubectl wait --for=condition=WorkerAvailable=True "${maps[@]}" --timeout=60s
}

# Beside the writer, 300 sets of changes in as many transactions. Then the source is at rest, and the books balance.
change_much() {
  psql -qX -v ON_ERROR_STOP=1 -c 'DO $$ BEGIN FOR i IN 1..300 LOOP CALL change_set(); COMMIT; END LOOP; END $$' service=crm
  end_writer
  within 60 "a balanced ledger of every map" books_balance
}

# Since the pause: no change at the destination, and Paused was True in each state that the API server has told.
nothing_has_moved() {
  [ "$(content erp)" = "$before" ] || fail "the destination has changed during the pause"
  [ "$(errors)" = "$refused" ] || fail "the refused records are not what they were"
  ! grep -v ' True$' "$folder/pauses.log" || fail "Paused was not True all the while"
  note "the books balance; Paused was True in each of $(wc -l < "$folder/pauses.log") states; destination and refused records are as before"
}

errors() { kubectl get recorderrors --field-selector tableMap=customers -o 'jsonpath={range .items[*]}{.metadata.name}{"\n"}{end}' | sort; }
errors_are() { [ "$(kubectl get "${maps[@]}" -o 'jsonpath={.items[*].status.errors.count}')" = "$*" ]; }
maintenance_note() { kubectl get tm/customers -o 'jsonpath={.spec.maintenanceNote}'; }

# formats MAP: of the entries in its queue, in order, each where it changes. It is an entry's second byte.
formats() {
  local uid
  uid=$(kubectl get "$1" -o 'jsonpath={.metadata.uid}')
  REDISCLI_AUTH=$password redis-cli -h "$host" -p "$redis_port" eval "
    local formats, last = {}
    for _, entry in ipairs(redis.call('XRANGE', KEYS[1], '-', '+')) do
      local format = string.byte(entry[2][2], 2)
      if format ~= last then table.insert(formats, format) end
      last = format
    end
    return table.concat(formats, ' ')" 1 "{tm:$namespace:$uid}:stream"
}

formats_are() {
  local map
  for map in "${maps[@]}"; do [ "$(formats "$map")" = "$*" ] || return; done
}

end_process_named() {
  local name pid born
  while read -r name pid born; do
    if [ "$name" = "$1" ]; then end "$name" "$pid" "$born"; fi
  done < <(recorded process)
}
