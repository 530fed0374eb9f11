#!/usr/bin/env bash
# The browser that the report's tests open it in. Does nothing where there is one; JUDGE_BROWSER names another.
set -euo pipefail
cd "$(dirname "$0")/.."

for name in ${JUDGE_BROWSER:-chromium chromium-browser google-chrome}; do
    if command -v "$name" >/dev/null; then exit 0; fi
done
if [ -n "${JUDGE_BROWSER:-}" ]; then echo "browser: JUDGE_BROWSER=$JUDGE_BROWSER is no program" >&2; exit 2; fi

if command -v apt-get >/dev/null; then
    as_root=()
    [ "$(id -u)" = 0 ] || as_root=(sudo -n)
    if [ "$(id -u)" = 0 ] || sudo -n true 2>/dev/null; then
        echo "installing chromium for the report's tests" >&2
        export DEBIAN_FRONTEND=noninteractive
        "${as_root[@]}" apt-get update -qq >/dev/null &&
            "${as_root[@]}" apt-get install -y -qq --no-install-recommends chromium >/dev/null &&
            command -v chromium >/dev/null && exit 0
    fi
fi
# no rights, or no such package here (Ubuntu's is a snap): playwright's own build, if it runs with this system's libraries
.venv/bin/playwright install chromium >&2 || {
    echo "browser: no Chromium could be installed; install one, or set JUDGE_BROWSER to its path" >&2
    exit 2
}
