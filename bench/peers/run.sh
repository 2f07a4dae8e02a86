#!/bin/sh
# The benchmarks of bench/models and the same work in other engines, in turns. Arguments go to run.py: sh bench/peers/run.sh --help
set -eu
cd "$(dirname "$0")/../.."
here=bench/peers
venv=$here/venv
for argument in "$@"; do
  case $argument in -h | --help | --list | --programs | --engines | --table*) exec python3 $here/run.py "$@" ;; esac
done
if ! cmp -s $here/requirements.txt $venv/requirements.txt; then
  python3 -m venv $venv
  $venv/bin/python -m pip install --quiet --requirement $here/requirements.txt
  cp $here/requirements.txt $venv/requirements.txt
fi
if python3 $here/run.py --engines "$@" | grep -q llama.cpp && ! cmp -s $here/llama_cpp.sh $venv/llama_cpp.sh; then
  sh $here/llama_cpp.sh $venv
  cp $here/llama_cpp.sh $venv/llama_cpp.sh
fi
cmake --preset release > /dev/null
cmake --build --preset release --target $($venv/bin/python $here/run.py --programs "$@")
exec $venv/bin/python $here/run.py "$@"
