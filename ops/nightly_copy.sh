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
command -v flock >/dev/null || { echo "flock is missing: apt-get install util-linux, or brew install flock" >&2; exit 3; }

mkdir -p run
# The kernel lets go of it however this ends, which no trap does.
exec 9>run/nightly_copy.lock
if ! flock -n 9; then
    echo "another copy is under way" >&2
    exit 1
fi

for folder in journal runs; do
    [ -d "$folder" ] || continue
    # Names that begin with a dot are half written; the dataset in `lerobot` may be replaced while it is read.
    rsync --archive --partial --timeout=60 --exclude='.*' \
        --rsh="${RSH:-ssh -o BatchMode=yes -o ConnectTimeout=10}" \
        "$folder" "$GPU_HOST:${GPU_FOLDER:-so101}/"
done
