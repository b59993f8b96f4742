#!/usr/bin/env bash
# Builds helm, helm-unittest and kubeconform, from the versions that tests/chart/go.mod pins, into a cache outside the checkout,
# and prints its folder. Once: about eight minutes on two cores. An argument names one of them, which is built alone.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
module=$here/../tests/chart

tools=(
  helm.sh/helm/v4/cmd/helm
  github.com/helm-unittest/helm-unittest/cmd/helm-unittest
  github.com/yannh/kubeconform/cmd/kubeconform
)
sum=$(sha256sum "$module/go.mod")
bin=${XDG_CACHE_HOME:-$HOME/.cache}/tablemap/chart-${sum:0:12}/bin
# helm tells its version to charts, and a plain build has another.
version=$(sed -n 's|^\thelm.sh/helm/v4 \(v[^ ]*\).*|\1|p' "$module/go.mod")

for package in "${tools[@]}"; do
  name=$(basename "$package")
  [ "${1:-$name}" = "$name" ] || continue
  "$here/build-go.sh" "$module" "$bin" "$package" "$name" "-X helm.sh/helm/v4/internal/version.version=$version"
done
echo "$bin"
