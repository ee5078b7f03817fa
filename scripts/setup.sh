#!/usr/bin/env bash
# Makes .venv: a private Python with exactly the packages of one lock file, and the `gensearcher`
# command. Safe to run again; a second run takes seconds.
#
#   scripts/setup.sh requirements/cpu.txt        (called by `make setup`)
set -euo pipefail
cd "$(dirname "$0")/.."

LOCK=$1
PYTHON=${PYTHON:-python3}
VENV=.venv
UV_VERSION=0.13.9
NEEDED_GIB=9

say() { echo "setup: $*"; }
fail() {
    echo "setup: $*" >&2
    exit 1
}

check_machine() {
    command -v "$PYTHON" >/dev/null ||
        fail "'$PYTHON' was not found; install Python 3.11 or newer (Debian: apt install python3 python3-venv), or name one: make setup PYTHON=/path/to/python3.11"
    "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
        fail "'$PYTHON' is $("$PYTHON" --version 2>&1), but 3.11 or newer is needed; name one: make setup PYTHON=/path/to/python3.11"
    "$PYTHON" -c 'import venv, ensurepip' 2>/dev/null ||
        fail "'$PYTHON' cannot make virtual environments; install them (Debian: apt install python3-venv)"
}

check_disk() {
    local free
    free=$(df -Pk . | awk 'NR == 2 { print int($4 / 1048576) }')
    [ "$free" -ge "$NEEDED_GIB" ] ||
        fail "$NEEDED_GIB GiB of free disk are needed here, but there are only $free GiB; free some, or clone to a larger disk"
}

make_venv() {
    if [ -x "$VENV/bin/python" ] && "$VENV/bin/python" -c 'import pip' 2>/dev/null; then
        return
    fi
    check_disk
    say "making $VENV with $("$PYTHON" --version)"
    rm -rf "$VENV"
    "$PYTHON" -m venv "$VENV"
}

install_packages() {
    say "installing the packages of $LOCK (about 2 GB to fetch the first time)"
    "$VENV/bin/python" -m pip install -qq --disable-pip-version-check "uv==$UV_VERSION"
    export VIRTUAL_ENV=$PWD/$VENV UV_SYSTEM_CERTS=1
    # Bytecode beforehand: every process of a run imports torch, vllm and transformers.
    "$VENV/bin/uv" pip install --quiet --compile-bytecode -r "$LOCK" \
        --override requirements/overrides.txt
    "$VENV/bin/uv" pip install --quiet --no-deps --no-build-isolation --editable .
}

check_machine
make_venv
install_packages
say "ready"
