#!/bin/sh
# Makes .venv from uv.lock with nothing but uv, or Python 3.12; `make` runs it when the lock has changed.
# sh ops/setup.sh            what training on simulated arms needs
# sh ops/setup.sh arm        and LeRobot's driver, cameras and datasets
# sh ops/setup.sh arm serve  and the large models
set -eu
cd "$(dirname "$0")/.."
unset VIRTUAL_ENV UV_PROJECT_ENVIRONMENT PYTHONPATH PYTHONHOME || true

# A pyenv shim may be there for a version that has no uv: ask it to run, not only whether it is there.
runs() { "$@" >/dev/null 2>&1; }

find_uv() {
    for uv in uv .venv/bin/uv "${HOME:-}/.local/bin/uv"; do
        if runs "$uv" --version; then return; fi
    done
    for python in python3.12 python3 python; do
        runs "$python" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 12))' || continue
        runs "$python" -m venv .venv || fail "$python cannot make a virtual environment: apt-get install python3.12-venv"
        .venv/bin/python -m pip install --quiet --disable-pip-version-check uv || fail "uv could not be installed with pip"
        uv=.venv/bin/uv
        return
    done
    fail "needs uv or Python 3.12, and found neither: see https://docs.astral.sh/uv/getting-started/installation/"
}

fail() {
    echo "error: $1" >&2
    exit 1
}

if [ ! -e .venv/.ready ]; then
    case $(uname -s) in
        Linux) echo "Setting up .venv, once: downloads about 3 GB of packages (PyTorch brings CUDA), 5.4 GB on disk." ;;
        *) echo "Setting up .venv, once: downloads about 0.4 GB of packages, 1.5 GB on disk." ;;
    esac
fi
find_uv
# --inexact keeps what mac-bootstrap and gpu-bootstrap have added.
extras="--extra train"
for extra; do extras="$extras --extra $extra"; done
# shellcheck disable=SC2086
UV_HTTP_TIMEOUT=${UV_HTTP_TIMEOUT:-300} "$uv" sync --frozen --inexact $extras ||
    fail "packages could not be installed; once that is mended, make goes on from there"
touch .venv/.ready
for extra; do touch ".venv/.ready-$extra"; done
