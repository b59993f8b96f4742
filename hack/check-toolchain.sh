#!/usr/bin/env bash
# check-toolchain.sh cargo|go: stops with a clear message if the tool is missing or too old.
set -euo pipefail

case ${1:?cargo or go} in
  cargo) least=1.89 why="kube 5 needs Rust 1.89" get="https://rustup.rs" ;;
  go) least=1.26 why="Kubernetes 1.36 needs Go 1.26" get="https://go.dev/dl" ;;
  *) echo "unknown tool: $1" >&2; exit 2 ;;
esac

if ! command -v "$1" >/dev/null; then
  echo "$1 is not installed: $why. Get $1 $least or later from $get." >&2
  exit 1
fi

# Not the version that go.mod or a toolchain file would fetch, but the one that is installed.
case $1 in
  cargo) said=$(cargo --version) ;;
  go) said=$(GOTOOLCHAIN=local go version) ;;
esac
[[ $said =~ ([0-9]+\.[0-9]+(\.[0-9]+)?) ]] || { echo "cannot read the version of $1 in: $said" >&2; exit 1; }
have=${BASH_REMATCH[1]}

if [ "$(printf '%s\n' "$least" "$have" | sort -V | head -n 1)" != "$least" ]; then
  echo "$1 $have is too old: $why. Get $1 $least or later from $get." >&2
  exit 1
fi
