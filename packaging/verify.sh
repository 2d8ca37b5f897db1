#!/bin/sh
# Verify packages of the Local License Server before anything of them is run:
#
#     sh verify.sh KEY.pem [FOLDER]
#
# KEY.pem is the public key of who made the packages. It does not come with them: get it, or its fingerprint, another way.
# FOLDER (default: here) holds SHA256SUMS, SHA256SUMS.sig and files that they name; at least one must be there, and no
# other package.
# Needs openssl and sha256sum, and no network.
set -eu

refuse() {
    echo "REFUSED: $*" >&2
    exit 1
}

if [ $# -lt 1 ] || [ $# -gt 2 ]; then
    echo "usage: sh verify.sh KEY.pem [FOLDER]" >&2
    exit 2
fi
[ -r "$1" ] || refuse "the public key $1 cannot be read"
key=$(cd "$(dirname "$1")" && pwd)/$(basename "$1")
cd "${2:-.}" || refuse "there is no folder ${2:-.}"
for tool in openssl sha256sum; do
    command -v "$tool" >/dev/null || refuse "$tool is not installed"
done
[ -r SHA256SUMS ] || refuse "there is no SHA256SUMS in $PWD"
[ -r SHA256SUMS.sig ] || refuse "there is no SHA256SUMS.sig in $PWD: these packages are not signed"

# The signature first: a list that nobody vouches for proves nothing about the files.
fingerprint=$(openssl pkey -pubin -in "$key" -outform DER 2>/dev/null | sha256sum | cut -d' ' -f1)
openssl dgst -sha256 -verify "$key" -signature SHA256SUMS.sig SHA256SUMS >/dev/null 2>&1 ||
    refuse "SHA256SUMS is not signed by the key $fingerprint"
sha256sum --check --strict --ignore-missing --quiet SHA256SUMS ||
    refuse "a file is not the one that was signed"
# Another package beside them would be installed by the next command with a * in it, and nobody has vouched for it.
for one in *.deb *.tar.gz; do
    [ ! -e "$one" ] || grep -qxF "$(sha256sum "$one")" SHA256SUMS ||
        refuse "$one is here and SHA256SUMS does not name it: move it away"
done
echo "Verified. The key's fingerprint is $fingerprint; compare it with the one that you were told."
