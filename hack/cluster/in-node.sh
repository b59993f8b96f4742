#!/usr/bin/env bash
# in-node.sh FOLDER NAME COMMAND...: starts a process of the node, with a log, and notes its number.
set -euo pipefail
folder=$(realpath "$1") name=$2
shift 2
cd "$folder"
# To enter its mounts leaves the folder.
setsid nsenter -t "$(cat pid/node)" -m -n -u -- sh -c 'cd "$0" && exec "$@"' "$folder" "$@" >> "log/$name.log" 2>&1 < /dev/null &
echo $! > "pid/$name"
