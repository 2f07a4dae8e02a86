#!/bin/sh
# The benchmarks of bench/models and the same work in other engines, in turns. Arguments go to run.py: sh bench/peers/run.sh --help
set -eu
cd "$(dirname "$0")/../.."
here=bench/peers
venv=$here/venv
for argument in "$@"; do
  case $argument in -h | --help | --list | --table*) exec python3 $here/run.py "$@" ;; esac
done
if ! cat $here/requirements.txt $here/llama_cpp.sh | cmp -s - $venv/installed.txt; then
  python3 -m venv $venv
  $venv/bin/python -m pip install --quiet --requirement $here/requirements.txt
  sh $here/llama_cpp.sh $venv
  cat $here/requirements.txt $here/llama_cpp.sh > $venv/installed.txt
fi
cmake --preset release > /dev/null
cmake --build --preset release --target $($venv/bin/python $here/run.py --programs "$@")
exec $venv/bin/python $here/run.py "$@"
