#!/usr/bin/env bash
# redis-image.sh IMAGE OUT.tar: this machine's Redis as an OCI archive, with the shell and grep that its probes use, and the
# libraries of these. For tests where no registry is: it has as many bytes as it needs, and no package's updates.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT

# As everybody must be able to enter it.
chmod 755 "$root"
programs=()
for program in redis-server redis-cli sh grep; do
  programs+=("$(command -v "$program")")
  install -D -m 0755 "${programs[-1]}" "$root/usr/bin/$program"
done
hack/image-libraries.sh "$root" "${programs[@]}"
hack/oci-archive.sh "$root" "$1" "$2" 999:999 /usr/bin/redis-server
