#!/usr/bin/env bash
# image-libraries.sh FOLDER PROGRAM...: puts the libraries that these programs need, and what loads them, into FOLDER. Static
# programs need none.
set -euo pipefail
folder=$1
# Each line names a file, the loader too, or what the kernel gives.
for library in $(ldd "${@:2}" 2> /dev/null | grep -o '/[^ ]* (0x' | cut -d' ' -f1 | sort -u); do
  install -D -m 0755 "$library" "$folder$library"
done
