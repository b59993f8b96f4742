#!/usr/bin/env bash
# Checks the chart: with helm lint, helm-unittest and kubeconform, whose versions tests/chart/go.mod pins, and by the checks
# in tests/chart. The tools are built into a cache outside the checkout. Once: about six minutes on two cores.
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
# helm reads its own version, and a plain build has another.
version=$(sed -n 's|^\thelm.sh/helm/v4 \(v[^ ]*\).*|\1|p' go.mod)
flags="-s -w -X helm.sh/helm/v4/internal/version.version=$version"

"$here/check-toolchain.sh" go
export GOTOOLCHAIN=local CGO_ENABLED=0
for package in "${tools[@]}"; do
  name=$(basename "$package")
  [ -x "$bin/$name" ] && continue
  echo "==> building $name into $bin"
  mkdir -p "$bin"
  # Renamed when it is whole: a build that was stopped half-way must not look like a finished one.
  new=$bin/.$name.$$
  trap 'rm -f "$new"' EXIT
  go build -mod=readonly -trimpath -ldflags "$flags" -o "$new" "$package"
  mv "$new" "$bin/$name"
done

"$here/build-kubernetes.sh"
echo "==> the chart's unit tests"
"$bin/helm-unittest" --strict ../../charts/tablemap
echo "==> its manifests, on schemas and on a Kubernetes API"
export CHART_TOOLS=$bin KUBERNETES_BIN=${XDG_CACHE_HOME:-$HOME/.cache}/tablemap/kubernetes-v1.36.3/bin
CGO_ENABLED=0 go test -mod=readonly -count=1 ./...
