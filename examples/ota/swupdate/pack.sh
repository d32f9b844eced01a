#!/bin/sh
# A SWUpdate image with a bundle inside, signed: pack.sh BUNDLE.tar CERT.pem KEY.pem OUT.swu [FOLDER ON THE DEVICE]
set -eu
here=$(cd "$(dirname "$0")" && pwd)
content=$(mktemp -d)
trap 'rm -rf "$content"' EXIT
cp "$1" "$content/model.tar"
sum=$(sha256sum < "$1" | cut -d' ' -f1)
sed -e "s|@sha256@|$sum|" -e "s|@path@|${5:-/mnt/model}|" "$here/sw-description" > "$content/sw-description"
openssl cms -sign -in "$content/sw-description" -out "$content/sw-description.sig" \
    -signer "$2" -inkey "$3" -outform DER -nosmimecap -binary
# The description comes first, and its signature after it: SWUpdate reads a stream.
(cd "$content" && printf '%s\n' sw-description sw-description.sig model.tar | cpio -o -H crc --quiet) > "$4"
