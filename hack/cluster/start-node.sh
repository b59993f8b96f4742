#!/usr/bin/env bash
# start-node.sh FOLDER IMAGE.tar...: starts containerd, gives it the images, and starts the kubelet.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
folder=$(realpath "$1")
shift
# shellcheck source-path=SCRIPTDIR
source "$here/names.sh"

"$here/in-node.sh" "$folder" containerd containerd -c cfg/containerd.toml
# The kubelet ends if it finds none.
for _ in {1..100}; do
  if ctr -a "$socket" version > /dev/null 2>&1; then break; fi
  sleep 0.2
done
for image; do ctr -a "$socket" -n k8s.io images import "$image" > /dev/null; done
"$here/in-node.sh" "$folder" kubelet "$programs/kubelet" --config cfg/kubelet.yaml --kubeconfig kubeconfig \
  --hostname-override "$name" --node-ip "$node"
