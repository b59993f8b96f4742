#!/usr/bin/env bash
# Builds the image as an OCI archive, with the content of the Dockerfile. TABLEMAP_IMAGE names it.
set -euo pipefail
cd "$(dirname "$0")/.."

version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -1)
image=${TABLEMAP_IMAGE:-ghcr.io/tablemap/tablemap:$version}
out=${1:-target/image/tablemap.tar}
target=$(uname -m)-unknown-linux-gnu

# With the plugin, which is no part of the image: it is the same build.
echo "==> building the static programs for $target"
RUSTFLAGS="-C target-feature=+crt-static" cargo build --locked --release --bins --target "$target"

root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
hack/image-root.sh "target/$target/release/tablemap" "$root"
hack/oci-archive.sh "$root" "$image" "$out" 65532:65532 /usr/bin/tablemap
echo "==> $image is in $out ($(stat -c %s "$out" | numfmt --to=iec))"
