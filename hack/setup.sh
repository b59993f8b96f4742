#!/usr/bin/env bash
# Makes a bare Debian 12 with cargo, go and apt ready for `make test` and `make demo`.
# Says what it does, and skips what is there.
set -euo pipefail
here=$(dirname "$0")
"$here/check-toolchain.sh" cargo
"$here/install-packages.sh"
"$here/build-kubernetes.sh"
