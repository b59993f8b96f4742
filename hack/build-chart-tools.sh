#!/usr/bin/env bash
# Builds helm, helm-unittest and kubeconform, from the versions that tests/chart/go.mod pins, into a cache outside the checkout,
# and prints its folder. Once: about eight minutes on two cores.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
cd "$here/../tests/chart"

tools=(
  helm.sh/helm/v4/cmd/helm
  github.com/helm-unittest/helm-unittest/cmd/helm-unittest
  github.com/yannh/kubeconform/cmd/kubeconform
)
sum=$(sha256sum go.mod)
bin=${XDG_CACHE_HOME:-$HOME/.cache}/tablemap/chart-${sum:0:12}/bin
# helm tells its version to charts, and a plain build has another.
version=$(sed -n 's|^\thelm.sh/helm/v4 \(v[^ ]*\).*|\1|p' go.mod)
flags="-s -w -X helm.sh/helm/v4/internal/version.version=$version"

for package in "${tools[@]}"; do
  name=$(basename "$package")
  [ -x "$bin/$name" ] && continue
  "$here/check-toolchain.sh" go
  echo "==> building $name into $bin" >&2
  mkdir -p "$bin"
  # Renamed when it is whole: a build that was stopped half-way must not look like a finished one.
  new=$bin/.$name.$$
  trap 'rm -f "$new"' EXIT
  GOTOOLCHAIN=local CGO_ENABLED=0 go build -mod=readonly -trimpath -ldflags "$flags" -o "$new" "$package"
  mv "$new" "$bin/$name"
done
echo "$bin"
