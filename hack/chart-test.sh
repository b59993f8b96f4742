#!/usr/bin/env bash
# Checks the chart: by its unit tests, and by tests/chart, which has lint, schemas, and an install on a Kubernetes API.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)

"$here/install-packages.sh"
"$here/build-kubernetes.sh"
CHART_TOOLS=$("$here/build-chart-tools.sh")
export CHART_TOOLS
export KUBERNETES_BIN=${XDG_CACHE_HOME:-$HOME/.cache}/tablemap/kubernetes-v1.36.3/bin
echo "==> the chart's unit tests"
"$CHART_TOOLS/helm-unittest" --strict "$here/../charts/tablemap"
echo "==> its manifests, on schemas and on a Kubernetes API"
cd "$here/../tests/chart"
GOTOOLCHAIN=local CGO_ENABLED=0 go test -mod=readonly -count=1 ./...
