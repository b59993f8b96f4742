#!/usr/bin/env bash
# Starts a real cluster of one node, installs the chart with helm, and tells the demo's story with worker pods.
# Needs root on plain Linux. TABLEMAP_IMAGE_ARCHIVE names an image that hack/image.sh has built already.
set -Eeuo pipefail
cd "$(dirname "$0")/.."
umask 022
unset KUBECONFIG

if [ "$(id -u)" -ne 0 ]; then
  cat >&2 <<'END'
make e2e needs root: it makes network and mount namespaces, and control groups. Without it stays unproven: that the image
runs, that the chart installs, and that workers do as pods, with their own rights and under the restricted standard.
END
  exit 1
fi

namespace=tablemap-demo
system=tablemap-system
image=tablemap.local/tablemap:e2e
caches=${XDG_CACHE_HOME:-$HOME/.cache}/tablemap
programs=$caches/kubernetes-v1.36.3/bin
export LC_ALL=C.UTF-8
state=$(mktemp -u "${TMPDIR:-/tmp}/tablemap-e2e.XXXXXX.state")
cluster=

source hack/demo/tell.sh
source hack/demo/processes.sh
source hack/demo/servers.sh
source hack/demo/story.sh
source hack/e2e/outages.sh
source hack/e2e/leaving.sh
source hack/e2e/rights.sh
source hack/e2e/tenants.sh
source hack/e2e/redis.sh
source hack/e2e/requests.sh
source hack/e2e/teams.sh
source hack/e2e/upgrade.sh

# Pods do not have the addresses that a node has within a pod's own.
build() {
  hack/setup.sh
  hack/install-packages.sh containerd=containerd runc=runc iptables=iptables nft=nftables conntrack=conntrack ip=iproute2 \
    nsenter=util-linux /usr/lib/cni/bridge=containernetworking-plugins
  hack/build-kubernetes.sh kubelet kube-proxy kube-scheduler
  hack/build-coredns.sh
  helm=$(hack/build-chart-tools.sh helm)/helm
  mkdir -p target/e2e
  rights=$PWD/target/e2e/rights
  (cd tests/chart && GOTOOLCHAIN=local CGO_ENABLED=0 go build -mod=readonly -o "$rights" ./cmd/rights)
  archive=${TABLEMAP_IMAGE_ARCHIVE:-target/e2e/tablemap.tar}
  if [ -z "${TABLEMAP_IMAGE_ARCHIVE:-}" ]; then TABLEMAP_IMAGE=$image hack/image.sh "$archive"; fi
  cc -Os -static -o target/e2e/pause hack/cluster/pause.c
  rm -rf target/e2e/pause-root
  install -D target/e2e/pause target/e2e/pause-root/pause
  hack/oci-archive.sh target/e2e/pause-root tablemap.local/pause:1 target/e2e/pause.tar 65535:65535 /pause
  hack/redis-image.sh "$redis_image" target/e2e/redis.tar
  build_versions
  # The plugin stands beside the program that is in the image.
  tablemap=$(realpath "${CARGO_TARGET_DIR:-target}/$(uname -m)-unknown-linux-gnu/release/kubectl-tablemap")
  export PATH=$(dirname "$tablemap"):$programs:/usr/lib/postgresql/15/bin:$PATH
}

start_cluster() {
  cluster=$(mktemp -d "${TMPDIR:-/tmp}/tablemap-e2e.XXXXXX")
  chmod 755 "$cluster"
  step "starting a cluster of one node in $cluster"
  local images=(target/e2e/{pause,redis}.tar "$archive" target/e2e/tablemap-older.tar target/e2e/tablemap-newer.tar)
  mapfile -t images < <(realpath "${images[@]}")
  hack/cluster/up.sh "$cluster" "${images[@]}"
  export KUBECONFIG=$cluster/kubeconfig
  run kubectl get nodes -o wide
  local number
  number=$(cat "$cluster/number")
  host=10.$number.0.1 clients=10.$number.0.0/16
}

# start_operator [CHART IMAGE]: in place of the demo's operator, which is a process of this machine.
start_operator() {
  step "installing the chart: two operators in $system; workers become pods of $namespace"
  local file
  for file in "$system" "$namespace"; do
    run kubectl create namespace "$file"
    run kubectl label namespace "$file" pod-security.kubernetes.io/enforce=restricted
  done
  release "${1:-charts/tablemap}" "${2:-$image}"
  run kubectl get pods --namespace "$system"
  within 60 "the records API" kubectl get recorderrors
}

# release CHART IMAGE [MORE...]: installs it, or upgrades what is there to it.
release() {
  run "$helm" upgrade --install tablemap "$1" --namespace "$system" --wait --timeout 300s \
    --set "image.repository=${2%:*},image.tag=${2##*:},image.pullPolicy=Never" \
    --set 'operator.extraArgs={--counters-seconds=1}' --set operator.log='info\,tablemap=debug\,kube=warn' "${@:3}"
}

has_records() { true; }

finish() {
  local status=$1
  set +e
  if [ "$status" -ne 0 ]; then
    echo
    echo "==> it has failed: ${reason:-$failed_at}"
    if [ -n "${KUBECONFIG:-}" ]; then
      kubectl get pods,tm,connections -A -o wide
      kubectl get events -A --sort-by=.lastTimestamp | tail -n 30
      kubectl logs --namespace "$system" -l app.kubernetes.io/component=operator --tail 40 --prefix
      kubectl logs --namespace "$namespace" -l app.kubernetes.io/component=worker --tail 40 --prefix
    fi
  fi >&2
  stop_writer
  if [ -n "${TABLEMAP_E2E_KEEP:-}" ]; then
    echo "==> left running: export KUBECONFIG=$cluster/kubeconfig; hack/cluster/down.sh $cluster; $state"
    return
  fi
  if [ -e "$state" ]; then
    end_all
    case ${folder:-} in */tablemap-demo.*) rm -rf "$folder" ;; esac
    rm "$state"
  fi
  if [ -n "$cluster" ]; then
    hack/cluster/down.sh "$cluster"
    rm -rf "$cluster"
  fi
}

failed_at='' reason=''
trap 'failed_at="line $LINENO of ${BASH_SOURCE[0]##*/}: $BASH_COMMAND"' ERR
trap 'finish $?' EXIT
trap 'fail "interrupted"' INT TERM
build
SECONDS=0
start_cluster
new_state
start_servers
start_operator
tell_story
secure_the_destination
run kubectl get pods,deployments,leases --namespace "$namespace"
kill_the_leader
replace_workers
restart_the_node
apiserver_away
make_teams
restart_redis
compare_teams
keep_teams_apart
end_teams
end_operations
compare_worker
leave
upgrade_and_go_back
leave_nothing
step "a real cluster, the chart, worker pods: done in $SECONDS seconds"
