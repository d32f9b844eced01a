#!/bin/sh
# A Mender artifact with a bundle inside: pack.sh BUNDLE.tar OUT.mender
# By the update module "directory", which keeps what was there before and rolls back to it.
set -eu
content=$(mktemp -d)
trap 'rm -rf "$content"' EXIT
mkdir "$content/model"
tar -C "$content/model" -xf "$1"
tar -C "$content/model" --sort=name --owner=0 --group=0 -cf "$content/update.tar" .
echo /data/edgekd/model > "$content/dest_dir"
mender-artifact write module-image -T directory -t my-board -n edgekd-model-1.0 -o "$2" \
    -f "$content/update.tar" -f "$content/dest_dir"
