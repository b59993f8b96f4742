#!/usr/bin/env bash
# Builds the name server of the cluster that the end-to-end test starts, into a cache outside the checkout. Once: about two
# minutes on two cores.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
bin=${XDG_CACHE_HOME:-$HOME/.cache}/tablemap/coredns
[ -x "$bin/coredns" ] && exit 0
"$here/check-toolchain.sh" go
echo "==> building CoreDNS into $bin"
cd "$here/../tests/cluster/coredns"
mkdir -p "$bin"
# Renamed when it is whole.
new=$bin/.coredns.$$
trap 'rm -f "$new"' EXIT
GOTOOLCHAIN=local CGO_ENABLED=0 go build -mod=readonly -trimpath -ldflags "-s -w" -o "$new" github.com/coredns/coredns
mv "$new" "$bin/coredns"
