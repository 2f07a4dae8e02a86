/// Pictures: decode, resize, and the whole way from a file to what a vision tower takes. One thread.
#include <chiasm/io/image_file.hpp>
#include <chiasm/io/image_processor.hpp>

#include "support/paths.hpp"

#include <benchmark/benchmark.h>

using namespace chiasm;

namespace {

Image photograph(int width, int height) {
  Image image(width, height);
  std::uint32_t state = 1;
  for (int y = 0; y < height; ++y)
    for (int x = 0; x < 3 * width; ++x) {
      state = state * 1664525u + 1013904223u;
      image.row(y)[x] = static_cast<std::uint8_t>(x / 5 + y / 3 + static_cast<int>(state >> 28));
    }
  return image;
}

void resize_to(benchmark::State& state, int width, int height, int to_width, int to_height, Resample filter) {
  const Image image = photograph(width, height);
  for (auto _ : state) benchmark::DoNotOptimize(resize(image, to_width, to_height, filter).pixels().data());
  state.counters["Mpixel/s"] = benchmark::Counter(1e-6 * width * height, benchmark::Counter::kIsIterationInvariantRate);
}

void process(benchmark::State& state, const char* config) {
  const Image image = photograph(3000, 2000);
  const ImageProcessor processor = ImageProcessor::from_json(Json::parse(config));
  for (auto _ : state) benchmark::DoNotOptimize(processor(image).pixel_values.data());
}

void decode(benchmark::State& state, const char* name) {
  const auto path = shared_data(std::string("io/images/in/") + name);
  if (!path) {
    state.SkipWithError("the reference pictures are not there");
    return;
  }
  std::size_t pixels = 0;
  for (auto _ : state) {
    const Image image = load_image(*path);
    pixels = image.pixels().size() / 3;
    benchmark::DoNotOptimize(image.pixels().data());
  }
  state.counters["Mpixel/s"] = benchmark::Counter(1e-6 * static_cast<double>(pixels), benchmark::Counter::kIsIterationInvariantRate);
}

}  // namespace

BENCHMARK_CAPTURE(resize_to, bicubic_3000x2000_to_504x336, 3000, 2000, 504, 336, Resample::bicubic)->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(resize_to, bicubic_3000x2000_to_336x336, 3000, 2000, 336, 336, Resample::bicubic)->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(resize_to, lanczos_3000x2000_to_1456x971, 3000, 2000, 1456, 971, Resample::lanczos)->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(resize_to, bicubic_640x427_to_504x336, 640, 427, 504, 336, Resample::bicubic)->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(resize_to, bicubic_200x140_to_336x336, 200, 140, 336, 336, Resample::bicubic)->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(process, clip336, R"({"image_processor_type": "CLIPImageProcessor", "size": 336, "crop_size": 336})")->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(process, llava_pad336, R"({"image_processor_type": "LlavaImageProcessor", "size": 336, "crop_size": 336, "do_pad": true})")->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(process, llavanext336, R"({"image_processor_type": "LlavaNextImageProcessor", "size": 336, "crop_size": 336})")->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(decode, jpeg_3000x2000, "big_3000x2000_q80.jpg")->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(decode, jpeg_640x427, "photo_china.jpg")->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(decode, png_640x480, "proc_640x480.png")->Unit(benchmark::kMillisecond);
