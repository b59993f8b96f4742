#!/usr/bin/env bash
# Installs the Debian packages that are missing: Redis, Postgres, PgBouncer, and what unpacks archives. Only their programs
# are wanted, so the services that the packages bring are not started. Arguments name more: program=package.
set -euo pipefail

missing=()
command -v redis-server >/dev/null || missing+=(redis-server)
[ -x /usr/lib/postgresql/15/bin/postgres ] || missing+=(postgresql-15)
[ -x /usr/sbin/pgbouncer ] || missing+=(pgbouncer)
command -v curl >/dev/null || missing+=(curl ca-certificates)
command -v unzip >/dev/null || missing+=(unzip)
command -v xz >/dev/null || missing+=(xz-utils)
for more; do
  command -v "${more%%=*}" >/dev/null || missing+=("${more#*=}")
done
[ ${#missing[@]} -eq 0 ] && exit 0

if ! command -v apt-get >/dev/null; then
  echo "missing: ${missing[*]}. There is no apt-get to install them with: please install them yourself." >&2
  exit 1
fi
if [ "$(id -u)" -ne 0 ]; then
  if ! command -v sudo >/dev/null; then
    echo "missing: ${missing[*]}. Run 'apt-get install ${missing[*]}' as root, then try again." >&2
    exit 1
  fi
  echo "==> asking sudo for: apt-get install ${missing[*]}"
  exec sudo -- "$0" "$@"
fi

# 101 tells the packages' scripts that starting a service is not allowed.
policy=/usr/sbin/policy-rc.d
kept=
restore() {
  rm -f "$policy"
  if [ -n "$kept" ]; then mv "$kept" "$policy"; fi
}
trap restore EXIT
trap 'exit 1' INT TERM HUP
if [ -e "$policy" ] || [ -L "$policy" ]; then
  mv "$policy" "$policy.tablemap-kept"
  kept=$policy.tablemap-kept
fi
printf '#!/bin/sh\nexit 101\n' > "$policy"
chmod 755 "$policy"

export DEBIAN_FRONTEND=noninteractive
echo "==> installing Debian packages: ${missing[*]} (their services are not started)"
apt-get update -qq
apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
