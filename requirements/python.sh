#!/usr/bin/env bash
# Prints the path of the Python that .venv is made with: $PYTHON if that is set, otherwise the first of these programs
# that is CPython 3.11, 3.12 or 3.13 and has venv.
set -euo pipefail
candidates=(python3.11 python3.12 python3.13 python3)
[ -z "${PYTHON:-}" ] || candidates=("$PYTHON")
# Debian's packages of Python leave out ensurepip, without which venv makes no environment.
probe='import importlib.util, sys; print("%d.%d" % sys.version_info[:2], "with venv" if importlib.util.find_spec("ensurepip") else "bare")'

bare="" unsupported=""
for candidate in "${candidates[@]}"; do
    path=$(command -v "$candidate") || continue
    answer=$("$path" -c "$probe" 2>/dev/null) || continue
    version=${answer%% *}
    case $answer in
    "3.11 with venv" | "3.12 with venv" | "3.13 with venv") echo "$path" && exit 0 ;;
    "3.11 bare" | "3.12 bare" | "3.13 bare") bare=${bare:-$version} ;;
    *) unsupported=${unsupported:-$version} ;;
    esac
done

if [ -n "$bare" ]; then
    echo "install: Python $bare is here without venv; run: apt-get install python$bare-venv" >&2
elif [ -n "$unsupported" ]; then
    echo "install: needs Python 3.11, 3.12 or 3.13, this is $unsupported; run: apt-get install python3.11 python3.11-venv (or 3.12, 3.13), or pass PYTHON=…" >&2
elif [ -n "${PYTHON:-}" ]; then
    echo "install: PYTHON=$PYTHON does not run here; name another one, or leave it out" >&2
else
    echo "install: no Python 3.11, 3.12 or 3.13 here; run: apt-get install python3 python3-venv" >&2
fi
exit 2
