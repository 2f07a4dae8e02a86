#!/bin/sh
# The benchmarks of bench/models against the same work in PyTorch. Arguments go to run.py: sh bench/peers/run.sh --help
set -eu
cd "$(dirname "$0")/../.."
venv=bench/peers/venv
if ! cmp -s bench/peers/requirements.txt $venv/installed.txt; then
  python3 -m venv $venv
  $venv/bin/python -m pip install --quiet --requirement bench/peers/requirements.txt
  cp bench/peers/requirements.txt $venv/installed.txt
fi
cmake --preset release > /dev/null
cmake --build --preset release --target vit_bench llama_bench
exec $venv/bin/python bench/peers/run.py "$@"
