#!/usr/bin/env bash
# oci-archive.sh FOLDER IMAGE OUT.tar USER ENTRYPOINT...: makes a folder an image of one layer, without daemon or registry.
# IMAGE_ENVIRONMENT may hold NAME=VALUE words, for its processes.
# The same content makes the same archive. `ctr images import`, `podman load` and `skopeo copy oci-archive:` take it.
set -euo pipefail
folder=$1 image=$2 out=$3 user=$4
shift 4
case $(uname -m) in
  x86_64) architecture=amd64 ;;
  aarch64) architecture=arm64 ;;
  *) echo "no image can be made on $(uname -m)" >&2; exit 1 ;;
esac

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# Names sorted, no times, no owners.
archive() { tar --sort=name --format=ustar --owner=0 --group=0 --numeric-owner --mtime=@0 -C "$1" -cf "$2" .; }
digest() { sha256sum "$1" | cut -d' ' -f1; }

blobs=$work/archive/blobs/sha256
mkdir -p "$blobs"
# descriptor FILE MEDIATYPE [MORE]: puts a file among the blobs and prints what names it.
descriptor() {
  local sum
  sum=$(digest "$1")
  cp "$1" "$blobs/$sum"
  printf '{"mediaType":"%s","digest":"sha256:%s","size":%d%s}' "$2" "$sum" "$(stat -c %s "$1")" "${3:-}"
}
# The words as a JSON list; they hold neither quotes nor backslashes.
list() { local words; words=$(printf ',"%s"' "$@"); printf '[%s]' "${words:1}"; }

kind=application/vnd.oci.image
archive "$folder" "$work/layer"
gzip -n -6 -c "$work/layer" > "$work/layer.gz"
layer=$(descriptor "$work/layer.gz" $kind.layer.v1.tar+gzip)
read -ra environment <<< "${IMAGE_ENVIRONMENT:-}"
if [ ${#environment[@]} -gt 0 ]; then environment=(",\"Env\":$(list "${environment[@]}")"); fi
printf '{"architecture":"%s","os":"linux","config":{"User":"%s","Entrypoint":%s%s},"rootfs":{"type":"layers","diff_ids":["sha256:%s"]}}' \
  "$architecture" "$user" "$(list "$@")" "${environment[*]}" "$(digest "$work/layer")" > "$work/config"
config=$(descriptor "$work/config" $kind.config.v1+json)
printf '{"schemaVersion":2,"mediaType":"%s.manifest.v1+json","config":%s,"layers":[%s]}' $kind "$config" "$layer" > "$work/manifest"
names=$(printf '"io.containerd.image.name":"%s","org.opencontainers.image.ref.name":"%s"' "$image" "${image##*:}")
more=$(printf ',"platform":{"architecture":"%s","os":"linux"},"annotations":{%s}' "$architecture" "$names")
printf '{"schemaVersion":2,"manifests":[%s]}' "$(descriptor "$work/manifest" $kind.manifest.v1+json "$more")" \
  > "$work/archive/index.json"
echo '{"imageLayoutVersion":"1.0.0"}' > "$work/archive/oci-layout"

mkdir -p "$(dirname "$out")"
archive "$work/archive" "$out.new"
mv "$out.new" "$out"
