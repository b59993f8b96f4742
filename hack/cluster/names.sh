# shellcheck shell=bash disable=SC2034
# Names and addresses of the cluster in $folder. The number of its network is chosen at its start.
number=${N:-250}
if [ -e "$folder/number" ]; then number=$(cat "$folder/number"); fi
name=tablemap$number
cable=tm$number
host=10.$number.0.1
node=10.$number.0.2
pods=10.$number.128.0/24
services=10.$number.64.0/20
pause=tablemap.local/pause:1
caches=${XDG_CACHE_HOME:-$HOME/.cache}/tablemap
programs=$caches/kubernetes-v1.36.3/bin
socket=$folder/node/run-containerd/containerd.sock
