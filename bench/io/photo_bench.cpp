/// A photograph from the bytes of its file to the size that a vision tower sees; bench/peers/pillow_peer.py runs Pillow beside it.
///   photo_bench FILE WIDTH HEIGHT CALLS    -> {"decode", "resize", "both"}: processor seconds of the fastest call; "sha256" of the result
#include <chiasm/io/image_file.hpp>

#include "support/sha256.hpp"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

using namespace chiasm;

namespace {

template <class Work>
double fastest(int calls, Work&& work) {
  double best = 1e9;
  for (int i = 0; i < calls; ++i) {
    const std::clock_t begin = std::clock();
    work();
    best = std::min(best, static_cast<double>(std::clock() - begin) / CLOCKS_PER_SEC);
  }
  return best;
}

}  // namespace

int main(int count, char** arguments) {
  if (count != 5) {
    std::fprintf(stderr, "usage: photo_bench FILE WIDTH HEIGHT CALLS\n");
    return 2;
  }
  std::ifstream stream(arguments[1], std::ios::binary);
  const std::string text{std::istreambuf_iterator<char>(stream), {}};
  const std::span<const std::byte> file(reinterpret_cast<const std::byte*>(text.data()), text.size());
  const int width = std::atoi(arguments[2]), height = std::atoi(arguments[3]), calls = std::max(std::atoi(arguments[4]), 1);

  const Image photo = load_image(file, arguments[1]);
  Image small(1, 1);
  const double decode = fastest(calls, [&] { load_image(file, arguments[1]); });
  const double resized = fastest(calls, [&] { small = resize(photo, width, height, Resample::bicubic); });
  const double both = fastest(calls, [&] { small = resize(load_image(file, arguments[1]), width, height, Resample::bicubic); });
  std::printf("{\"decode\": %.6f, \"resize\": %.6f, \"both\": %.6f, \"sha256\": \"%s\"}\n", decode, resized, both, sha256(small.pixels()).c_str());
}
