#!/usr/bin/env bash
# image-root.sh PROGRAM FOLDER: all that the image holds, put into FOLDER.
set -euo pipefail
program=$1 folder=$2
authorities=/etc/ssl/certs/ca-certificates.crt
[ -s "$authorities" ] || { echo "$authorities is missing: install ca-certificates" >&2; exit 1; }
install -D -m 0755 "$program" "$folder/usr/bin/tablemap"
# A program that is not static, such as a dev build, needs its libraries and what loads them.
"$(dirname "$0")/image-libraries.sh" "$folder" "$program"
install -D -m 0644 "$authorities" "$folder$authorities"
mkdir -p "$folder/etc"
echo 'nonroot:x:65532:65532:nonroot:/:/sbin/nologin' > "$folder/etc/passwd"
echo 'nonroot:x:65532:' > "$folder/etc/group"
chmod 0644 "$folder/etc/passwd" "$folder/etc/group"
