#!/usr/bin/env bash
# down.sh FOLDER: ends what up.sh has started, by its process numbers, and removes what it has made.
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
[ -e "$1/number" ] || exit 0
folder=$(realpath "$1")
# shellcheck source-path=SCRIPTDIR
source "$here/names.sh"
cd "$folder" || exit 1

# A process that has ended may wait for a while until it is reaped.
lives() { [ -e "/proc/$1/status" ] && ! grep -q '^State:.Z' "/proc/$1/status"; }
end() {
  local process pid
  for process; do
    [ -e "pid/$process" ] || continue
    pid=$(cat "pid/$process")
    kill "$pid" 2> /dev/null
    for _ in {1..100}; do lives "$pid" || break; sleep 0.1; done
    if lives "$pid"; then kill -KILL "$pid"; fi
    rm "pid/$process"
  done
}
containers() { ctr -a "$socket" -n k8s.io "$@" 2> /dev/null; }

end kubelet kube-proxy
# Their control groups can be removed only once all their processes have ended.
for _ in {1..100}; do
  tasks=$(containers tasks ls -q)
  [ -n "$tasks" ] || break
  for task in $tasks; do containers tasks rm -f "$task" > /dev/null; done
  sleep 0.1
done
for container in $(containers containers ls -q); do containers containers rm "$container"; done
# The shims of this node alone: they share its mounts.
if [ -e pid/node ]; then
  ours=$(readlink "/proc/$(cat pid/node)/ns/mnt")
  for process in /proc/[0-9]*; do
    if [ "$(readlink "$process/ns/mnt" 2> /dev/null)" = "$ours" ] && grep -qz containerd-shim "$process/cmdline" 2> /dev/null; then
      kill "${process#/proc/}"
    fi
  done
fi
end coredns containerd scheduler controller-manager apiserver etcd node
ip netns del "$name"
ip link del "$cable" 2> /dev/null
ip route del unreachable "10.$number.0.0/16"
for hierarchy in /sys/fs/cgroup/*/"$name"; do
  if [ -d "$hierarchy" ]; then find "$hierarchy" -depth -type d -exec rmdir {} \;; fi
done
# Empty mount points. While another cluster runs they stay: without them its node would lose what it has mounted there.
ip netns list | grep -q '^tablemap' || rmdir /var/lib/kubelet /var/lib/containerd /run/containerd /var/lib/cni /var/log/pods /var/log/containers 2> /dev/null
rm number
