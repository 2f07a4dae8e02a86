#!/bin/sh
# The quick start: installs what is missing (apt, on Debian and its relatives), configures, builds, and then
#   demo   captions the bundled pictures and answers questions about them, with the bundled models: LLaVA, and BLIP-2 and Flamingo beside it
#   test   runs all tests
# CHIASM_BUILD_DIR names another build folder than build/demo or build/dev.
set -eu
cd "$(dirname "$0")/.."

usage() {
  echo "usage: sh cmake/quickstart.sh demo|test" >&2
  exit 2
}
[ $# -eq 1 ] || usage

packages="g++ cmake ninja-build libeigen3-dev nlohmann-json3-dev libstb-dev libcli11-dev libjpeg-dev libwebp-dev libhnswlib-dev"
case $1 in
  demo) preset=demo ;;
  test) preset=dev packages="$packages catch2 libbenchmark-dev clang" ;;
  *) usage ;;
esac
build=${CHIASM_BUILD_DIR:-build/$preset}

install_missing() {
  missing=
  for package in $packages; do
    case $(dpkg-query -W -f '${Status}' "$package" 2>/dev/null || true) in
      *"ok installed") ;;
      *) missing="$missing $package" ;;
    esac
  done
  [ -n "$missing" ] || return 0
  echo "installing:$missing"
  as_root=
  if [ "$(id -u)" -ne 0 ]; then
    as_root=sudo
    if ! command -v sudo >/dev/null; then
      echo "not root, and no sudo: please install these packages:$missing" >&2
      exit 1
    fi
  fi
  log=$(mktemp)
  if ! { $as_root apt-get update -q && $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends $missing; } \
      </dev/null >"$log" 2>&1; then
    cat "$log" >&2
    exit 1
  fi
  rm -f "$log"
}

# Elsewhere CMake takes what it finds and fetches the rest.
if command -v apt-get >/dev/null && command -v dpkg-query >/dev/null; then
  install_missing
fi

jobs=$(nproc 2>/dev/null || echo 2)
cmake --preset "$preset" -B "$build" >/dev/null
if [ "$1" = test ]; then
  cmake --build "$build" --parallel "$jobs"
  ctest --test-dir "$build" --output-on-failure --no-tests=error --parallel "$jobs"
  exit
fi

cmake --build "$build" --parallel "$jobs" --target caption vqa
ask() {
  printf '%s: %s ' "$1" "$2"
  "$build/examples/vqa" "examples/pictures/$1" "$2"
}
"$build/examples/caption" examples/pictures
ask shapes-01.png "What shape is the orange object?"
ask shapes-01.png "How many triangles can you see?"
ask shapes-02.png "Is the blue star to the left of the large cross?"
ask shapes-04.png "What is the color of the triangle?"
ask shapes-05.png "What shape is the object closest to the small red object?"
echo
echo "The same picture, read in three ways:"
for style in llava blip2 flamingo; do
  printf '%s, %s' "$style" "$("$build/examples/caption" --style "$style" examples/pictures/shapes-10.png)"
  printf '\n%s, %s: %s ' "$style" shapes-10.png "How many objects are there?"
  "$build/examples/vqa" --style "$style" examples/pictures/shapes-10.png "How many objects are there?"
done
