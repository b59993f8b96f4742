#!/usr/bin/env bash
# Every test, on real servers: two at a time, since one by itself mostly waits; but those that measure a time or a rate, or
# begin several at once themselves, run alone.
set -euo pipefail
cd "$(dirname "$0")/.."

alone=(broken:: leader:: paused::fifty siblings:: sizes:: soak::)
skips=()
for part in "${alone[@]}"; do skips+=(--skip "$part"); done

# The next test's API server is started while one runs.
export TABLEMAP_TESTS_AHEAD=1
run() { cargo test --locked --features testing "$@"; }
failed=0
run --lib --bins --test 'support_*' -- --test-threads=1 || failed=1
run --test real -- --test-threads=2 "${skips[@]}" || failed=1
run --test real -- --test-threads=1 "${alone[@]}" || failed=1
echo "==> the tests took $((SECONDS / 60)) min $((SECONDS % 60)) s"
exit "$failed"
