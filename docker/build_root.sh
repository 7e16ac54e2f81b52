#!/usr/bin/env bash
# The steps of docker/Dockerfile (target cuda) in a Debian root folder, for machines without a docker engine.
#   sudo docker/build_root.sh FOLDER      needs debootstrap; then: sudo chroot --userspec=1000:1000 FOLDER \
#                                         /usr/bin/env -C /data HOME=/home/wsipipe /opt/wsipipe/bin/wsipipe demo
# Debian's own python3 stands in for the python image.
set -euo pipefail
root=${1:?usage: build_root.sh FOLDER}
source=$(cd "$(dirname "$0")/.." && pwd)

debootstrap --variant=minbase --include=python3,python3-venv,ca-certificates,libexpat1 bookworm "$root" ${DEBIAN_MIRROR:-}
inside() { chroot "$root" /usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root "$@"; }
# The network of the caller: names, and whom to trust.
cp /etc/resolv.conf "$root/etc/resolv.conf"
cp /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/ca-certificates.crt"
inside useradd --create-home --uid 1000 wsipipe

# COPY . /src, less what .dockerignore leaves out
mkdir -p "$root/src" "$root/data"
tar -C "$source" --exclude='__pycache__' --exclude='*.egg-info' -cf - pyproject.toml README.md LICENSE wsipipe cli configs \
  | tar -C "$root/src" -xf -
inside python3 -m venv /opt/wsipipe
inside /opt/wsipipe/bin/pip install --no-cache-dir torch torchvision
inside /opt/wsipipe/bin/pip install --no-cache-dir /src
rm -rf "$root/src"
inside chown wsipipe /data
if inside sh -c 'command -v gcc cc clang'; then
  echo "a compiler is left inside" >&2
  exit 1
fi
