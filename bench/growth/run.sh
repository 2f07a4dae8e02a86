#!/bin/sh
# How cost grows, measured and drawn. Arguments go to growth.py: sh bench/growth/run.sh --help
set -eu
cd "$(dirname "$0")/../.."
venv=build/growth/venv
if ! cmp -s bench/growth/requirements.txt $venv/installed.txt; then
  echo "matplotlib comes from PyPI into $venv" >&2
  mkdir -p build/growth
  python3 -m venv $venv
  $venv/bin/python -m pip install --quiet --requirement bench/growth/requirements.txt || {
    echo "pip could not install it (its own words are above): with a network, the same call goes on from here" >&2
    exit 1
  }
  cp bench/growth/requirements.txt $venv/installed.txt
fi
exec $venv/bin/python bench/growth/growth.py "$@"
