#!/bin/sh
# llama-cpp-python from its source distribution into the environment $1, and beside it llama.cpp's kernels for machines without AMX. As many compilations at
# a time as there are processors, unless JOBS says otherwise. With --compiler in the place of $1: says what it would be built with.
set -eu
version=llama-cpp-python==0.3.36

# g++ 12, Debian's own, lets the stores that configure AMX's tiles be optimised away: llama.cpp then ends with a signal. clang from 16 on and g++ from 13 on do not.
for suffix in -22 -21 -20 -19 -18 -17 -16; do
  if command -v clang++$suffix > /dev/null; then CC=clang$suffix CXX=clang++$suffix; break; fi
done
if [ -z "${CXX:-}" ]; then
  for suffix in -15 -14 -13; do
    if command -v g++$suffix > /dev/null; then CC=gcc$suffix CXX=g++$suffix; break; fi
  done
fi
if [ -z "${CXX:-}" ]; then
  echo "llama.cpp with AMX wants a compiler newer than g++ 12; on Debian 12: apt-get install clang-19 libomp-19-dev" >&2
  exit 1
fi
if [ "$1" = --compiler ]; then
  echo "$CXX"
  exit
fi
export CC CXX CMAKE_BUILD_PARALLEL_LEVEL="${JOBS:-$(nproc)}"

venv=$1
log=$venv/llama_cpp.log
: > "$log"
logged() {
  "$@" >> "$log" 2>&1 && return
  tail -n 30 "$log" >&2
  echo "failed: $*; all that it said is in $log" >&2
  exit 1
}

work=$venv/llama.cpp-source
rm -rf "$work"
mkdir -p "$work"
echo "llama.cpp: downloading $version" >&2
logged "$venv/bin/python" -m pip download --no-deps --no-binary llama-cpp-python --dest "$work" $version
tar -x -f "$work"/llama_cpp_python-*.tar.gz -C "$work" --strip-components 1
echo "llama.cpp: building for this machine with $CXX" >&2
CMAKE_ARGS="-DGGML_NATIVE=ON" logged "$venv/bin/python" -m pip install --verbose --force-reinstall --no-deps --no-cache-dir "$work"/llama_cpp_python-*.tar.gz
logged "$venv/bin/python" -m pip install $version

avx2="-DGGML_SSE42=ON -DGGML_AVX=ON -DGGML_AVX2=ON -DGGML_FMA=ON -DGGML_F16C=ON -DGGML_BMI2=ON -DGGML_AVX_VNNI=ON"
avx512="$avx2 -DGGML_AVX512=ON -DGGML_AVX512_VBMI=ON -DGGML_AVX512_VNNI=ON -DGGML_AVX512_BF16=ON"
installed=$("$venv/bin/python" -c 'import importlib.util, pathlib; print(pathlib.Path(importlib.util.find_spec("llama_cpp").origin).parent / "lib")')
for tier in avx2 avx512; do
  eval flags=\$$tier
  echo "llama.cpp: building its kernels for $tier" >&2
  rm -rf "$venv/llama.cpp/$tier"
  mkdir -p "$venv/llama.cpp/$tier"
  cp "$installed"/* "$venv/llama.cpp/$tier"
  logged cmake -S "$work/vendor/llama.cpp" -B "$work/$tier" -DCMAKE_BUILD_TYPE=Release -DBUILD_SHARED_LIBS=ON -DGGML_NATIVE=OFF -DLLAMA_BUILD_COMMON=OFF \
    -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_TOOLS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_CURL=OFF $flags
  logged cmake --build "$work/$tier" --target ggml-cpu
  cp "$work/$tier"/bin/libggml-cpu.so* "$venv/llama.cpp/$tier"
done
rm -rf "$work"
