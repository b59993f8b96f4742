#!/usr/bin/env bash
# build-go.sh MODULE FOLDER PACKAGE PROGRAM [LDFLAGS]: builds a Go program, from the versions that MODULE/go.mod pins, as
# FOLDER/PROGRAM, unless it is there.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
module=$1 folder=$2 package=$3 program=$4 flags=${5:-}
[ -x "$folder/$program" ] && exit 0
"$here/check-toolchain.sh" go
echo "==> building $program into $folder" >&2
mkdir -p "$folder"
# Renamed when it is whole: a build that was stopped half-way must not look like a finished one.
new=$folder/.$program.$$
trap 'rm -f "$new"' EXIT
GOTOOLCHAIN=local CGO_ENABLED=0 go build -C "$module" -mod=readonly -trimpath -ldflags "-s -w $flags" -o "$new" "$package"
mv "$new" "$folder/$program"
