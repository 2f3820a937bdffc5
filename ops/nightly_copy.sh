#!/bin/sh
# Copies recordings and runs to the GPU host; for a nightly timer. GPU_HOST=user@host GPU_FOLDER=… sh ops/nightly_copy.sh
# Files are only added: sealed episodes never change, and what is deleted here stays there.
set -eu
cd "$(dirname "$0")/.."

if [ -z "${GPU_HOST:-}" ]; then
    echo "GPU_HOST is not set: give user@host of the GPU host, reachable by ssh without a password" >&2
    exit 2
fi
command -v rsync >/dev/null || { echo "rsync is missing: apt-get install rsync" >&2; exit 3; }

mkdir -p run
if ! mkdir run/nightly_copy.lock 2>/dev/null; then
    echo "another copy is under way; if none is, remove run/nightly_copy.lock" >&2
    exit 1
fi
trap 'rmdir run/nightly_copy.lock' EXIT

for folder in journal runs; do
    [ -d "$folder" ] || continue
    # Names that begin with a dot are half written; the dataset in `lerobot` may be replaced while it is read.
    rsync --archive --partial --timeout=60 --exclude='.*' \
        --rsh="${RSH:-ssh -o BatchMode=yes -o ConnectTimeout=10}" \
        "$folder" "$GPU_HOST:${GPU_FOLDER:-so101}/"
done
