#!/bin/sh
# The benchmarks of bench/models and the same work in other engines, in turns. Arguments go to run.py: sh bench/peers/run.sh --help
set -eu
cd "$(dirname "$0")/../.."
here=bench/peers
venv=$here/venv
for argument in "$@"; do
  case $argument in -h | --help | --list | --programs | --engines | --table*) exec python3 $here/run.py "$@" ;; esac
done

begun=$(date +%s)
say() { echo "bench/peers, $(($(date +%s) - begun)) s: $*" >&2; }
fail() {
  say "$*"
  exit 1
}
room() { # gigabytes, and what takes them
  free=$(df -Pk $here | awk 'NR == 2 { print int($4 * 1024 / 1e9) }')
  [ "$free" -ge "$1" ] || fail "$2 take $1 GB of disk, and $free GB are left"
}

for tool in cmake ninja c++ python3; do
  command -v $tool > /dev/null || fail "no $tool; on Debian: apt-get install cmake ninja-build g++ python3-venv"
done
# What can be missing is looked for before gigabytes are downloaded.
programs=$(python3 $here/run.py --programs "$@")
wants_llama_cpp=false
if python3 $here/run.py --engines "$@" | grep -q llama.cpp && ! cmp -s $here/llama_cpp.sh $venv/llama_cpp.sh; then
  wants_llama_cpp=true
  sh $here/llama_cpp.sh --compiler > /dev/null
fi
cmake --preset release > /dev/null

if ! cmp -s $here/requirements.txt $venv/requirements.txt; then
  room 10 "the other engines"
  say "the other engines come from PyPI into $venv: about 4 GB to download, 6 GB there"
  python3 -m venv $venv
  $venv/bin/python -m pip install --requirement $here/requirements.txt ||
    fail "pip could not install them (its own words are above): with a network and disk enough, the same call goes on from here"
  cp $here/requirements.txt $venv/requirements.txt
fi
if $wants_llama_cpp; then
  room 2 "llama.cpp and what its build leaves for a while"
  say "llama.cpp is built from its source, with AMX and without: some minutes"
  sh $here/llama_cpp.sh $venv
  cp $here/llama_cpp.sh $venv/llama_cpp.sh
fi
say "chiasm is built: $programs"
cmake --build --preset release --target $programs
say "all is there: measuring"
exec $venv/bin/python $here/run.py "$@"
