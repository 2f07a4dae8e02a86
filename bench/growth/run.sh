#!/bin/sh
# How cost grows, measured and drawn. Arguments go to growth.py: sh bench/growth/run.sh --help
set -eu
cd "$(dirname "$0")/../.."
venv=build/growth/venv
if ! cmp -s bench/growth/requirements.txt $venv/installed.txt; then
  mkdir -p build/growth
  python3 -m venv $venv
  $venv/bin/python -m pip install --quiet --requirement bench/growth/requirements.txt
  cp bench/growth/requirements.txt $venv/installed.txt
fi
exec $venv/bin/python bench/growth/growth.py "$@"
