#!/bin/sh
# Two commits of the benchmarks against each other, in turns: sh bench/ab.sh --help
exec python3 "$(dirname "$0")/ab.py" "$@"
