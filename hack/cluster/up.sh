#!/usr/bin/env bash
# up.sh FOLDER IMAGE.tar...: a real Kubernetes cluster of one node on this machine, with pods: the control plane as processes
# on the host's side of a virtual cable, the node in namespaces of its own. As root on plain Linux; all it makes is named
# after its network, 10.N.0.0/16. Ends when the node is ready. down.sh FOLDER ends it, also after a start that failed.
# KUBECONFIG is then FOLDER/kubeconfig; servers that pods shall reach listen at 10.N.0.1.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
folder=$(realpath -m "$1")
shift
images=("$@")
# shellcheck source-path=SCRIPTDIR
source "$here/names.sh"
mkdir -p "$folder"/{log,pid,certs,front,etcd,cfg,cni,flex}
mkdir -p "$folder"/node/{kubelet,containerd,run-containerd,cni,log-pods,log-containers,netns,sysctl}
cd "$folder"
echo "$number" > number

# spawn NAME COMMAND...: a process of the host.
spawn() {
  local name=$1
  shift
  setsid "$@" >> "log/$name.log" 2>&1 < /dev/null &
  echo $! > "pid/$name"
}
# within SECONDS WHAT COMMAND...
within() {
  local deadline=$((SECONDS + $1)) what=$2
  shift 2
  until "$@" > /dev/null 2>&1; do
    [ "$SECONDS" -lt "$deadline" ] || { echo "$what did not come about in time; see $folder/log" >&2; exit 1; }
    sleep 0.2
  done
}

make_network() {
  ip netns add "$name"
  ip link add "$cable" type veth peer name eth0 netns "$name"
  ip addr add "$host/30" dev "$cable"
  ip link set "$cable" up
  ip -n "$name" addr add "$node/30" dev eth0
  ip -n "$name" link set lo up
  ip -n "$name" link set eth0 up
  ip -n "$name" route add default via "$host"
  ip route add "$pods" via "$node"
  ip route add "$services" via "$node"
  # While the cable is down nothing for these addresses may leave by the default route.
  ip route add unreachable "10.$number.0.0/16"
}

start_control_plane() {
  local clients=http://127.0.0.1:2${number}1 peers=http://127.0.0.1:2${number}2
  openssl genrsa -out accounts.key 2048 2> /dev/null
  openssl rsa -in accounts.key -pubout -out accounts.pub 2> /dev/null
  openssl req -x509 -newkey rsa:2048 -nodes -days 30 -subj /CN=front -keyout front/ca.key -out front/ca.crt 2> /dev/null
  openssl req -newkey rsa:2048 -nodes -subj /CN=front-proxy -keyout front/tls.key -out front/tls.csr 2> /dev/null
  openssl x509 -req -in front/tls.csr -CA front/ca.crt -CAkey front/ca.key -CAcreateserial -days 30 \
    -extfile <(echo extendedKeyUsage=clientAuth) -out front/tls.crt 2> /dev/null
  token=$(openssl rand -hex 16)
  (umask 077; echo "$token,admin,admin,\"system:masters\"" > tokens)
  cat > cfg/audit.yaml <<END
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- {level: Metadata, userGroups: ["system:serviceaccounts"]}
- {level: None}
END
  spawn etcd "$programs/etcd" --data-dir etcd --log-level error --unsafe-no-fsync \
    --listen-client-urls "$clients" --advertise-client-urls "$clients" \
    --listen-peer-urls "$peers" --initial-advertise-peer-urls "$peers" --initial-cluster "default=$peers"
  # How it is started is kept, so that a test can end it and start it again.
  cat > start-apiserver <<END
exec "$programs/kube-apiserver" --etcd-servers "$clients" --bind-address $host --secure-port 6443 \
  --advertise-address $host --cert-dir certs --service-cluster-ip-range $services \
  --service-account-key-file accounts.pub --service-account-signing-key-file accounts.key \
  --service-account-issuer https://kubernetes.default.svc --token-auth-file tokens \
  --authorization-mode RBAC --allow-privileged --kubelet-preferred-address-types InternalIP \
  --enable-aggregator-routing --audit-policy-file cfg/audit.yaml --audit-log-path log/audit.log \
  --requestheader-client-ca-file front/ca.crt --requestheader-allowed-names front-proxy \
  --requestheader-username-headers X-Remote-User --requestheader-group-headers X-Remote-Group \
  --requestheader-extra-headers-prefix X-Remote-Extra- \
  --proxy-client-cert-file front/tls.crt --proxy-client-key-file front/tls.key
END
  spawn apiserver bash start-apiserver
  (umask 077; cat > kubeconfig <<END
apiVersion: v1
kind: Config
clusters: [{name: e2e, cluster: {server: "https://$host:6443", certificate-authority: "$folder/certs/apiserver.crt"}}]
users: [{name: admin, user: {token: "$token"}}]
contexts: [{name: e2e, context: {cluster: e2e, user: admin}}]
current-context: e2e
END
  )
  within 90 "an answer of the API server" "$programs/kubectl" --kubeconfig kubeconfig get --raw /readyz
  # The root CA is what every pod is given to know the API server by.
  spawn controller-manager "$programs/kube-controller-manager" --kubeconfig kubeconfig --leader-elect=false \
    --bind-address 127.0.0.1 --secure-port 0 --service-account-private-key-file accounts.key \
    --root-ca-file certs/apiserver.crt --allocate-node-cidrs=false --flex-volume-plugin-dir "$folder/flex"
  spawn scheduler "$programs/kube-scheduler" --kubeconfig kubeconfig --leader-elect=false --secure-port 0
}

configure_node() {
  sed "s|@pods@|$pods|" "$here/pods.conflist" > cni/10-pods.conflist
  sed "s|@cni@|$folder/cni|; s|@pause@|$pause|" "$here/containerd.toml" > cfg/containerd.toml
  sed "s|@name@|$name|; s|@dns@|$host|; s|@folder@|$folder|" "$here/kubelet.yaml" > cfg/kubelet.yaml
  sed "s|@name@|$name|; s|@pods@|$pods|; s|@folder@|$folder|" "$here/kube-proxy.yaml" > cfg/kube-proxy.yaml
  echo "nameserver $host" > cfg/resolv.conf
  # A part of each hierarchy of its own, so that it can be removed without a trace. (cgroup v1; v2 has one for all.)
  local hierarchy
  for hierarchy in /sys/fs/cgroup/*/; do
    if [ -e "$hierarchy/cgroup.clone_children" ]; then mkdir -p "$hierarchy/$name"; fi
  done
}

# The kubelet would change these for the whole machine: it is given files instead.
declare -A kernel=([vm/overcommit_memory]=1 [vm/panic_on_oom]=0 [kernel/panic]=10 [kernel/panic_on_oops]=1)
# What the node has of its own, and where it expects it.
declare -A mounts=([kubelet]=/var/lib/kubelet [containerd]=/var/lib/containerd [run-containerd]=/run/containerd [cni]=/var/lib/cni
  [log-pods]=/var/log/pods [log-containers]=/var/log/containers [netns]=/run/netns)

make_node() {
  local file part script
  script="mount --make-rprivate /; mount --make-rshared /; hostname $name"
  for part in "${!mounts[@]}"; do
    mkdir -p "${mounts[$part]}"
    script+="; mount --bind $folder/node/$part ${mounts[$part]}; mount --make-shared ${mounts[$part]}"
  done
  for file in "${!kernel[@]}"; do
    echo "${kernel[$file]}" > "node/sysctl/${file//\//_}"
    script+="; mount --bind $folder/node/sysctl/${file//\//_} /proc/sys/$file"
  done
  spawn node nsenter --net="/run/netns/$name" unshare -m -u bash -ec "$script; touch $folder/node/up; exec sleep infinity"
  within 10 "the node's namespaces" test -e node/up
}

start_node() {
  "$here/start-node.sh" "$folder" "${images[@]}"
  "$here/in-node.sh" "$folder" kube-proxy "$programs/kube-proxy" --config cfg/kube-proxy.yaml
}

# Of the host: it needs no image.
start_dns() {
  cat > cfg/Corefile <<END
.:53 {
  bind $host
  errors
  kubernetes cluster.local {
    kubeconfig $folder/kubeconfig e2e
  }
  cache 5
}
END
  spawn coredns "$caches/coredns/coredns" -conf cfg/Corefile
}

node_is_ready() { "$programs/kubectl" --kubeconfig kubeconfig get node "$name" | grep -q ' Ready'; }

make_network
start_control_plane
configure_node
make_node
start_node
start_dns
within 90 "a ready node" node_is_ready
# Pods cannot be made before it is there.
within 30 "the default service account" "$programs/kubectl" --kubeconfig kubeconfig get serviceaccount default
