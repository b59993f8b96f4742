#!/usr/bin/env bash
# Bans, licences and sources of the dependencies. Advisories need a network, so they are not part of it.
set -euo pipefail
if ! cargo deny --version >/dev/null 2>&1; then
  echo "skipped: cargo-deny is not installed, so bans, licences and sources were not checked (cargo install --locked cargo-deny)"
  exit 0
fi
cargo deny check bans licenses sources
