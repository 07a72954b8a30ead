#!/bin/sh
# Make .venv (or the folder given as $1) with everything in it: uv when it is there, else venv and pip.
# `tools/environment.sh --pythons` only lists the interpreters that would do, oldest first: version, tab, path.
set -eu
cd "$(dirname "$0")/.."
venv=${1:-.venv}
range='(3, 11) <= sys.version_info[:2] < (3, 14)'

works() { # a version manager may put a python3.12 on the path that only prints an error
    if command -v uv >/dev/null 2>&1; then need=sys; else need=ensurepip; fi
    "$1" -c "import sys, $need; sys.exit(not $range)" >/dev/null 2>&1
}

places() { # where a Python of this version may be: on the path, with pyenv, with uv
    command -v "python$1" || true
    ls -d "${PYENV_ROOT:-${HOME:-/nowhere}/.pyenv}/versions/$1".*/bin/python 2>/dev/null || true
    uv python find --no-project --no-python-downloads "$1" 2>/dev/null || true
}

if [ "$venv" = --pythons ]; then
    for version in 3.11 3.12 3.13; do
        places "$version" | while IFS= read -r candidate; do
            if works "$candidate"; then printf '%s\t%s\n' "$version" "$candidate"; break; fi
        done
    done
    exit
fi

if [ -n "${PYTHON:-}" ]; then
    works "$PYTHON" || { echo "autotrader: PYTHON=$PYTHON does not run, is not Python 3.11, 3.12 or 3.13, or has no venv module" >&2; exit 1; }
else
    for candidate in python3.13 python3.12 python3.11 python3 python; do
        if works "$candidate"; then PYTHON=$candidate; break; fi
    done
    [ -n "${PYTHON:-}" ] || { echo "autotrader: no usable Python 3.11, 3.12 or 3.13 found (with the venv module, or uv); install one, or name it: make PYTHON=/path/to/python" >&2; exit 1; }
fi

cache=${UV_CACHE_DIR:-${XDG_CACHE_HOME:-${HOME:-/nowhere}/.cache}/uv}
{ mkdir -p "$cache" && [ -w "$cache" ]; } 2>/dev/null || export UV_NO_CACHE=1
unset VIRTUAL_ENV PYTHONHOME
is_there() { "$venv/bin/python" -c "import sys; sys.exit(not $range)" >/dev/null 2>&1; }

if command -v uv >/dev/null 2>&1; then
    is_there || uv venv --quiet --clear --python "$("$PYTHON" -c 'import sys; print(sys.executable)')" "$venv"
    uv pip install --quiet --python "$venv/bin/python" -c constraints.txt -e '.[dev]'
else
    is_there || "$PYTHON" -m venv --clear "$venv"
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
fi
touch "$venv/.ready"
