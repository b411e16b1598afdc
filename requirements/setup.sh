#!/usr/bin/env bash
# Build .venv, or FOLDER, from a lock file: requirements/setup.sh PYTHON LOCK [FOLDER]. Run by `make setup`; can be run again.
set -euo pipefail
cd "$(dirname "$0")/.."
python=$1 lock=$2 venv=${3:-.venv}

fail() {
    printf 'setup: %s\n' "$@" >&2
    exit 2
}

# As root on a Debian-like system a missing system package is installed; elsewhere the user is told.
install_system_package() {
    [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null &&
        { apt-get install -y -qq "$1" >/dev/null 2>&1 ||
            { apt-get update -qq >/dev/null 2>&1 && apt-get install -y -qq "$1" >/dev/null 2>&1; }; }
}

version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null || true)
[ "$version" = 3.11 ] || fail "Python 3.11 is needed: '$python' ${version:+is Python }${version:-does not start}" \
    "install it, or name it: make setup PYTHON=/path/to/python3.11"

command -v cc >/dev/null || install_system_package gcc ||
    fail "a C compiler is needed to build one dependency (pycosat): install gcc"

# Triton compiles C against Python.h when its first kernel runs on a GPU. A Python of uv, conda or pyenv brings it; Debian's
# and Fedora's have a package of their own for it.
header=$("$python" -c 'import sysconfig
scheme = sysconfig.get_default_scheme()
print(sysconfig.get_path("include", "posix_prefix" if scheme == "posix_local" else scheme))')/Python.h
[ -f "$header" ] || { install_system_package "python$version-dev" && [ -f "$header" ]; } ||
    echo "setup: there is no $header. On a GPU Triton needs it to compile its kernels, and building a dependency may:" \
        "install python$version-dev (Debian) or python$version-devel (Fedora), or name a Python of uv, conda or pyenv:" \
        "make setup PYTHON=/path/to/python3.11"

command -v bwrap >/dev/null || install_system_package bubblewrap ||
    echo "setup: bubblewrap is missing and cannot be installed from here. Programs that code rewards grade cannot be" \
        "isolated without it, so code recipes refuse to run them; everything else works."

for other in "$venv"/.ready-*; do
    [ ! -e "$other" ] || [ "$other" = "$venv/.ready-$(basename "$lock" .lock)" ] ||
        fail "$venv was built for another kind of machine (${other##*-}): remove it first"
done

[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
pip() { "$venv/bin/python" -m pip --disable-pip-version-check "$@" | sed -u '/^Requirement already satisfied/d'; }

# torch first: its CPU build lies on PyTorch's own index where the configured one does not have it.
torch=$(grep '^torch==' "$lock")
pip install --no-deps "$torch" || pip install --no-deps --index-url https://download.pytorch.org/whl/cpu "$torch" ||
    fail "$torch is neither on the configured package index nor on PyTorch's; is the network up?"
pip install --no-deps -r "$lock"
pip install --no-deps --no-build-isolation --editable .
