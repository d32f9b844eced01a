#!/bin/sh
# A RAUC update with a bundle inside, signed: pack.sh BUNDLE.tar CERT.pem KEY.pem OUT.raucb
set -eu
here=$(cd "$(dirname "$0")" && pwd)
content=$(mktemp -d)
trap 'rm -rf "$content"' EXIT
cp "$here/manifest.raucm" "$content/manifest.raucm"
cp "$1" "$content/model.tar"
rauc bundle --cert="$2" --key="$3" "$content" "$4"
