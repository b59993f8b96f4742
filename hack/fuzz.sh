#!/usr/bin/env bash
# Fuzzes what parses bytes of others, with libFuzzer: each target for a minute, from the committed corpus on. Coverage needs no
# more than the stable toolchain; the sanitizers would, and in a program without unsafe code they have little to find.
set -euo pipefail
cd "$(dirname "$0")/../fuzz"
../hack/install-packages.sh c++=g++
host=$(rustc -vV | sed -n 's/^host: //p')
flags="-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4"
for kind in inline-8bit-counters pc-table trace-compares; do flags+=" -Cllvm-args=-sanitizer-coverage-$kind"; done
echo "==> building the fuzz targets"
RUSTFLAGS="$flags --cfg fuzzing" cargo build --locked --quiet --target "$host"
mkdir -p artifacts
for target in requests entries messages; do
  echo "==> fuzzing $target"
  # What is found beyond the corpus is not kept; what fails is, in fuzz/artifacts.
  found=$(mktemp -d)
  "target/$host/debug/$target" -max_total_time="${TABLEMAP_FUZZ_SECONDS:-60}" -timeout=10 -rss_limit_mb=2048 -max_len=65536 \
    -print_final_stats=1 -verbosity=0 -artifact_prefix=artifacts/ "$found" "corpus/$target" || failed+=" $target"
  rm -rf "$found"
done
[ -z "${failed:-}" ] || { echo "these have failed:$failed" >&2; exit 1; }
