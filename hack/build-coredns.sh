#!/usr/bin/env bash
# Builds the name server of the cluster that the end-to-end test starts, into a cache outside the checkout. Once: about two
# minutes on two cores.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
bin=${XDG_CACHE_HOME:-$HOME/.cache}/tablemap/coredns
"$here/build-go.sh" "$here/../tests/cluster/coredns" "$bin" github.com/coredns/coredns coredns
