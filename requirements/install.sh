#!/usr/bin/env bash
# Makes .venv and installs judge with one build of vLLM: install.sh cpu|cuda
# PYTHON names the interpreter (python.sh chooses one otherwise), TORCH_INDEX an index that has PyTorch's CPU build.
set -euo pipefail
cd "$(dirname "$0")/.."
device=${1:-cpu}
pip=(.venv/bin/python -m pip --disable-pip-version-check install --quiet --progress-bar off)

stop() {
    echo "install: $1" >&2
    exit 2
}

[ "$device" = cpu ] || [ "$device" = cuda ] || stop "DEVICE is cpu or cuda, not $device"
[ "$(uname -sm)" = "Linux x86_64" ] || stop "needs Linux on x86-64, this is $(uname -sm)"
python=$(bash requirements/python.sh)
# The lock's wheels are built for glibc 2.31 or older.
libc=$(getconf GNU_LIBC_VERSION 2>/dev/null) || libc="a system without glibc"
printf '%s\n' "glibc 2.31" "$libc" | sort -V -C || stop "needs glibc 2.31 or newer (Debian 11, Ubuntu 20.04), this is $libc"
if [ "$device" = cpu ]; then
    "$python" -c 'import ctypes; ctypes.CDLL("libnuma.so.1")' 2>/dev/null ||
        stop "vLLM's CPU build needs libnuma; run: apt-get install libnuma1"
else
    # Triton compiles its launchers when a model is loaded.
    version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    headers=$("$python" -c 'import sysconfig; print(sysconfig.get_path("include"))')
    { command -v gcc >/dev/null && [ -e "$headers/Python.h" ]; } ||
        stop "vLLM needs gcc and Python's headers on a GPU; run: apt-get install gcc libc6-dev python$version-dev"
fi

# The two builds of vLLM share a package folder: one .venv holds one of them.
other=$([ "$device" = cpu ] && echo cuda || echo cpu)
if [ -e ".venv/.ready-$other" ]; then rm -rf .venv; fi
[ -x .venv/bin/python ] || "$python" -m venv .venv

echo "installing judge and vLLM ($device) into .venv with $python; this takes a few minutes" >&2
if [ "$device" = cpu ]; then
    # torch first, with what it needs: where only the CUDA build can be had, it brings its libraries
    "${pip[@]}" ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} torch==2.13.0
    "${pip[@]}" --no-deps -r requirements/cpu.txt
else
    "${pip[@]}" -r requirements/cuda.txt
fi
"${pip[@]}" --no-deps -r requirements/quantize.txt -r requirements/dev.txt
if [ "$device" = cuda ]; then "${pip[@]}" -e .; else "${pip[@]}" --no-deps -e .; fi
