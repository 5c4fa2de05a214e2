#!/bin/sh
# Install what tests/debian-packages.txt names and the machine lacks.
set -eu
wanted=$(sed 's/#.*//' "$(dirname "$0")/debian-packages.txt")
missing=""
command -v dpkg-query >/dev/null 2>&1 || exit 0
for package in $wanted; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'install ok installed' || missing="$missing $package"
done
[ -z "$missing" ] && exit 0
if [ "$(id -u)" != 0 ]; then
    echo "not root, so not installed:$missing (tests that need them are skipped)"
    exit 0
fi
echo "installing$missing"
apt-get update -qq
DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends $missing >/dev/null
