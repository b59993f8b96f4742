#!/usr/bin/env bash
# demo.sh up|down: tells the story of a pause on real servers, and ends what it left running.
# With KUBECONFIG given, that cluster is used, in the namespace tablemap-demo. Otherwise a control plane is started.
# TABLEMAP may name a built program; otherwise it is built.
set -Eeuo pipefail
cd "$(dirname "$0")/.."
umask 077

state=${XDG_STATE_HOME:-$HOME/.local/state}/tablemap-demo
programs=${XDG_CACHE_HOME:-$HOME/.cache}/tablemap/kubernetes-v1.36.3/bin
namespace="tablemap-demo"
export PATH=$programs:/usr/lib/postgresql/15/bin:$PATH LC_ALL=C.UTF-8

source hack/demo/tell.sh
source hack/demo/processes.sh
source hack/demo/servers.sh
source hack/demo/story.sh

up() {
  trap 'failed_at="line $LINENO of ${BASH_SOURCE[0]##*/}: $BASH_COMMAND"' ERR
  trap 'finish $?' EXIT
  trap 'fail "interrupted"' INT TERM
  forget_our_own_kubeconfig
  down
  build
  SECONDS=0
  new_state
  start_servers
  start_operator
  tell_story
  say_how_to_go_on
}

# After a demo this shell may still have the KUBECONFIG that it printed. That cluster ends with the former demo.
forget_our_own_kubeconfig() {
  case ${KUBECONFIG:-} in
    */tablemap-demo.*/kubeconfig) KUBECONFIG=$(recorded given) ;;
  esac
}

# The plugin stands beside the operator.
build() {
  tablemap=${TABLEMAP:-}
  if [ -z "$tablemap" ]; then
    step "building the operator"
    cargo build --locked --quiet
    tablemap=${CARGO_TARGET_DIR:-target}/debug/tablemap
  fi
  tablemap=$(realpath "$tablemap")
  export PATH=$(dirname "$tablemap"):$PATH
}

down() {
  if [ ! -e "$state" ]; then
    [ "$command" = up ] || echo "no demo is running"
    return 0
  fi
  folder=$(recorded folder)
  step "ending the demo in $folder"
  stop_writer
  leave_cluster
  end_all
  case $folder in
    */tablemap-demo.*) rm -rf "$folder" ;;
  esac
  rm "$state"
}

finish() {
  if [ "$1" -eq 0 ]; then return; fi
  stop_writer
  echo
  echo "==> the demo has failed: ${reason:-$failed_at}"
  if [ -e "${folder:-}/operator.log" ]; then
    kubectl get tm -o 'custom-columns=MAP:.metadata.name,PHASE:.status.phase,READY:.status.conditions[?(@.type=="Ready")].message' || true
    echo "==> the end of the operator's log, $folder/operator.log:"
    tail -n 20 "$folder/operator.log"
  fi
  if [ -e "$state" ]; then
    echo "==> the servers are left running for a look; 'make demo-down' ends them"
    say_environment
  fi
} >&2

command=${1:-}
failed_at='' reason=''
case $command in
  up | down) "$command" ;;
  *) echo "usage: $0 up|down" >&2; exit 2 ;;
esac
