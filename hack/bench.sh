#!/usr/bin/env bash
# Measures TableMap beside other tools: see docs/performance.md. Fetches what is missing.
# TABLEMAP may name a built program; otherwise it is built.
set -euo pipefail
cd "$(dirname "$0")/.."
umask 077

hack/install-packages.sh python3=python3 pip3=python3-pip
export TABLEMAP_CACHE=${XDG_CACHE_HOME:-$HOME/.cache}/tablemap
if [ -z "${TABLEMAP:-}" ]; then
  cargo build --release --locked --quiet
  TABLEMAP=${CARGO_TARGET_DIR:-target}/release/tablemap
fi
TABLEMAP=$(realpath "$TABLEMAP")
export TABLEMAP

# Only the first measure has it as a peer.
export TABLEMAP_BENCH_DEBEZIUM=${TABLEMAP_BENCH_DEBEZIUM-$TABLEMAP_CACHE/debezium-server-3.6.3}
case ,${TABLEMAP_BENCH:-a}, in
  *,a,*) [ -z "$TABLEMAP_BENCH_DEBEZIUM" ] || hack/bench/fetch-debezium.sh || TABLEMAP_BENCH_DEBEZIUM= ;;
esac

export PATH=/usr/lib/postgresql/15/bin:$PATH LC_ALL=C.UTF-8 PYTHONPATH=hack PYTHONDONTWRITEBYTECODE=1
exec python3 -m bench
