#!/usr/bin/env bash
# writer.sh <file>: one set of changes at the source every 50 ms, for as long as the file is there.
set -euo pipefail
while [ -e "$1" ]; do
  echo 'CALL change_set();'
  sleep 0.05
done | psql -qX -v ON_ERROR_STOP=1 service=crm
