#!/usr/bin/env bash
# Builds the parts of a Kubernetes control plane that the tests and the demo run, from the versions
# that tests/cluster/go.mod pins, into a cache outside the checkout. Once: about six minutes on two cores.
# Arguments name more parts: those of a node.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)

version=v1.36.3
bin=${XDG_CACHE_HOME:-$HOME/.cache}/tablemap/kubernetes-$version/bin
packages=(
  go.etcd.io/etcd/server/v3
  k8s.io/kubernetes/cmd/kube-apiserver
  k8s.io/kubernetes/cmd/kube-controller-manager
  k8s.io/kubernetes/cmd/kubectl
)
for more; do packages+=("k8s.io/kubernetes/cmd/$more"); done
# Clients read the version of the server, and a plain build has none.
minor=${version#v1.}
stamp=k8s.io/component-base/version
flags="-X $stamp.gitVersion=$version -X $stamp.gitMajor=1 -X $stamp.gitMinor=${minor%%.*}"
flags+=" -X k8s.io/client-go/pkg/version.gitVersion=$version"

for package in "${packages[@]}"; do
  name=$(basename "$package")
  # The last part of this module's path is its major version.
  if [ "$name" = v3 ]; then name=etcd; fi
  "$here/build-go.sh" "$here/../tests/cluster" "$bin" "$package" "$name" "$flags"
done
