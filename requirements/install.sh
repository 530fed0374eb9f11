#!/usr/bin/env bash
# Makes .venv and installs judge with one build of vLLM: install.sh cpu|cuda
# PYTHON names the interpreter, TORCH_INDEX an index that has PyTorch's CPU build.
set -euo pipefail
cd "$(dirname "$0")/.."
device=${1:-cpu}
python=${PYTHON:-python3.11}
pip=(.venv/bin/python -m pip --disable-pip-version-check install --quiet --progress-bar off)

command -v "$python" >/dev/null || { echo "install: no $python here; pass PYTHON=…" >&2; exit 2; }
[ "$(uname -sm)" = "Linux x86_64" ] || { echo "install: needs Linux on x86-64, this is $(uname -sm)" >&2; exit 2; }
# the two builds of vLLM share a package folder: one .venv holds one of them
other=$([ "$device" = cpu ] && echo cuda || echo cpu)
if [ -e ".venv/.ready-$other" ]; then rm -rf .venv; fi
[ -x .venv/bin/python ] || "$python" -m venv .venv

echo "installing judge and vLLM ($device) into .venv; this takes a few minutes" >&2
case $device in
cpu)
    # torch first, with what it needs: where only the CUDA build can be had, it brings its libraries
    "${pip[@]}" ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} torch==2.13.0
    "${pip[@]}" --no-deps -r requirements/cpu.txt
    ;;
cuda)
    "${pip[@]}" -r requirements/cuda.txt
    ;;
*)
    echo "install: DEVICE is cpu or cuda, not $device" >&2
    exit 2
    ;;
esac
"${pip[@]}" --no-deps -r requirements/quantize.txt -r requirements/dev.txt
if [ "$device" = cuda ]; then "${pip[@]}" -e .; else "${pip[@]}" --no-deps -e .; fi
